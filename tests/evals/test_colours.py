"""The colour experiment against a plain hooked forward, one question at a time, and against sums over what it kept."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steercache.cli.main import run
from steercache.core.errors import UsageError
from steercache.data.benchmarks import open_benchmark
from steercache.data.scenes import COLOURS
from steercache.evals.paper.colours import ColourEffect, ColourOptions, colour_effect
from steercache.evals.tasks.task import ask
from steercache.queries.session import open_session
from steercache.report.colours import colour_chart
from steercache.report.style import svg_of
from steercache.steer.effects import random_directions
from tests.evals.conftest import World

LAYER, ALPHAS = 1, (10.0, 60.0)
QUESTIONS = open_benchmark("scenes", task="Attribute", form="word", limit=30)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def here(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same with a cache of its own: this module's random directions are nobody else's vectors."""
    root = tmp_path_factory.mktemp("colours") / "root"
    shutil.copytree(world.session.cache.root, root, ignore=shutil.ignore_patterns("models", "sweeps", "ledger*"))
    return World(session=open_session(root), loaded=world.loaded)


@pytest.fixture(scope="module")
def found(here: World) -> ColourEffect:
    vector = replace(here.session.vector("attribute"), concept="red", name="red")
    here.session.save(vector)
    options = ColourOptions(layer=LAYER, alphas=ALPHAS, n=5, n_random=2)
    return colour_effect(here.session, here.loaded, vector, QUESTIONS, options)


def examples_of(found: ColourEffect, here: World) -> list[Any]:
    """The questions in the order of the effect's inputs."""
    examples = QUESTIONS.part("search")
    asked = ask(examples, here.loaded.bundle, split="search")
    by_id = {one.sample_id: example for one, example in zip(asked, examples, strict=True)}
    return [by_id[answer.sample_id] for answer in found.effect.answers[: found.n]]


@torch.no_grad()
def plainly(here: World, example: Any, delta: np.ndarray[Any, Any]) -> dict[str, float]:
    """Probability of every colour's tokens as the first of the answer: processor, a hook on image tokens, softmax."""
    loaded = here.loaded
    text = f"<image>answer en Answer with one word.\n{example.labels.meta['prompt']}"
    image = Image.open(io.BytesIO(example.images[0].load())).convert("RGB")
    inputs = loaded.processor(images=[[image]], text=[text], return_tensors="pt")
    inputs.pop("labels", None)
    mask = inputs["input_ids"][0] == loaded.config.image_token_id

    def hook(module: Any, args: Any, out: Any) -> Any:
        moved = out.clone()
        moved[0, mask] += torch.from_numpy(delta)
        return moved

    handle = loaded.model.model.language_model.layers[LAYER].register_forward_hook(hook)
    p = loaded.model(**inputs).logits[0, -1].softmax(-1)
    handle.remove()
    forms = {c: (c, c.capitalize(), f" {c}", f" {c.capitalize()}") for c in COLOURS}
    ids = {c: {tuple(loaded.tokenizer.encode(f, add_special_tokens=False)) for f in some} for c, some in forms.items()}
    return {c: sum(float(p[i[0]]) for i in some if len(i) == 1) for c, some in ids.items()}


def test_probabilities_are_those_of_a_plain_hooked_forward(found: ColourEffect, here: World) -> None:
    effect = found.effect
    vector = effect.vectors[0]
    directions = [vector, *random_directions(vector, layer=LAYER, n=2, seed=0)]
    examples = examples_of(found, here)
    assert effect.words == COLOURS
    assert found.n == len({e.labels.group_id for e in examples}) == 5
    for d, direction in enumerate(directions):
        for a, alpha in enumerate((0.0, *ALPHAS)):
            for i, example in enumerate(examples):
                wanted = plainly(here, example, direction.at(LAYER) * np.float32(alpha))
                got = dict(zip(effect.words, effect.probability_vapw[d, a, i], strict=True))
                assert got == pytest.approx(wanted, rel=2e-4, abs=1e-7)


def test_curves_are_sums_over_the_stored_trials(found: ColourEffect, here: World) -> None:
    rows = here.session.query("words_by_alpha", sweep=found.sweep_id).to_arrow_table().to_pylist()
    own = {(r["alpha"], r["words"]): r["probability"] for r in rows if r["control_kind"] is None}
    assert len(rows) == len(COLOURS) * (1 + 3 * len(ALPHAS))
    for point in found.points:
        assert point.words == pytest.approx({c: own[point.alpha, c] for c in COLOURS}, rel=1e-5)
        assert point.named.mass == pytest.approx(own[point.alpha, "red"], rel=1e-5)
        assert point.any_word.mass == pytest.approx(sum(own[point.alpha, c] for c in COLOURS), rel=1e-5)
        random = [r["probability"] for r in rows if r["control_kind"] == "random" and r["alpha"] == point.alpha]
        if random:
            assert sum(random) / 2 == pytest.approx(point.any_word.random_mean, rel=1e-5)
    right = [example.labels.answer for example in examples_of(found, here)]
    assert "red" not in right
    p = found.effect.probability_vapw
    by_hand = [np.mean([p[0, a, i, COLOURS.index(word or "")] for i, word in enumerate(right)]) for a in range(3)]
    assert [point.right.mass for point in found.points] == pytest.approx(by_hand)


def test_a_strength_far_beyond_the_rows_breaks_the_answers_down(here: World) -> None:
    vector = replace(here.session.vector("attribute"), concept="red", name="red")
    options = ColourOptions(layer=2, target="both", n=4, n_random=1)
    found = colour_effect(here.session, here.loaded, vector, QUESTIONS, options)
    plain = found.points[0].any_word.mass
    lost = [p.alpha for p in found.points[1:] if p.any_word.mass < plain / 2]
    assert lost
    assert found.breaks_at == min(lost)
    assert found.points[-1].alpha * found.unit_share == pytest.approx(4, rel=0.06)  # strengths follow the rows' length
    assert f"alpha {found.breaks_at:g}" in svg_of(colour_chart(found), prefix="c")


def test_the_last_block_on_image_tokens_changes_nothing(here: World) -> None:
    vector = replace(here.session.vector("attribute"), concept="red", name="red")
    last = here.loaded.spec.n_layers - 1
    options = ColourOptions(layer=last, alphas=(50.0,), n=3, n_random=1)
    p = colour_effect(here.session, here.loaded, vector, QUESTIONS, options).effect.probability_vapw
    assert (p == p[:1, :1]).all()


def test_what_cannot_be_asked_says_why(here: World) -> None:
    vector = here.session.vector("counting")
    with pytest.raises(UsageError, match="no colour word"):
        colour_effect(here.session, here.loaded, vector, QUESTIONS, ColourOptions(layer=1))
    with pytest.raises(UsageError, match="no layer 9"):
        colour_effect(here.session, here.loaded, vector, QUESTIONS, ColourOptions(layer=9, word="red"))


def test_the_command_prints_the_curves_and_draws_them(here: World, capsys: pytest.CaptureFixture[str]) -> None:
    root = here.session.cache.root
    words = ["report", "colours", "tiny", "--vector", "attribute", "--word", "blue", "--layer", "2", "--alpha", "4,16"]
    assert run([*words, "--n", "3", "--random", "2", "--open", "--root", str(root), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [point["alpha"] for point in shown["points"]] == [0.0, 4.0, 16.0]
    assert Path(shown["picture"]).read_bytes().startswith(b"\x89PNG")
    assert run([*words, "--layer", "77", "--root", str(root)]) == 2
