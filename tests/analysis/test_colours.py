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

from steercache.analysis.colours import ColourEffect, ColourOptions, ColourPoint, breaks, colour_effect, named_lost
from steercache.benchmarks.task import ask
from steercache.cli.main import run
from steercache.cli.report_colours import found_in
from steercache.core.errors import UsageError
from steercache.data.benchmarks import open_benchmark
from steercache.data.scenes import COLOURS
from steercache.models.spec import LoadedModel
from steercache.queries.session import open_session
from steercache.report.colours import colour_chart
from steercache.report.style import svg_of
from steercache.steering.effects import random_directions
from steercache.steering.mass_curves import MassAtAlpha
from tests.world import World

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


def test_asked_again_it_is_read_without_a_model(found: ColourEffect, here: World) -> None:
    def refuse() -> LoadedModel:
        raise AssertionError("a model was loaded")

    options = ColourOptions(layer=LAYER, alphas=ALPHAS, n=5, n_random=2)
    light = LoadedModel(model=None, bundle=here.loaded.bundle)
    again = colour_effect(here.session, light, here.session.vector("red"), QUESTIONS, options, load=refuse)
    assert (found.n_computed, again.n_computed) == (len(found.effect.answers), 0)
    assert (again.sweep_id, again.points, again.unit_share, again.p_best) == (
        found.sweep_id,
        found.points,
        found.unit_share,
        found.p_best,
    )
    more = replace(options, alphas=(*ALPHAS, 3.5))
    with pytest.raises(AssertionError, match="loaded"):
        colour_effect(here.session, light, here.session.vector("red"), QUESTIONS, more, load=refuse)


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
    with pytest.raises(UsageError, match="not a colour word"):
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


def curve(masses: dict[float, tuple[float, float]]) -> tuple[ColourPoint, ...]:
    """Points of a made-up curve: by alpha, the probability of the vector's word and of any colour word."""

    def point(alpha: float, mass: float) -> MassAtAlpha:
        return MassAtAlpha(
            alpha=alpha, mass=mass, low=mass, high=mass, random_mean=0.9, random_low=0.9, random_high=0.9, p_random=0.5
        )

    return tuple(
        ColourPoint(alpha=a, words={}, named=point(a, named), right=point(a, 0.1), any_word=point(a, whole))
        for a, (named, whole) in masses.items()
    )


LOST_ALONE = {-1.0: (0.0, 0.9), 0.0: (0.1, 0.9), 1.0: (0.85, 0.95), 2.0: (0.3, 0.9), 4.9: (0.05, 0.9), 9.0: (0.2, 0.9)}


@pytest.mark.parametrize(
    ("masses", "named", "whole"),
    [
        (LOST_ALONE, 4.9, None),
        ({0.0: (0.1, 0.9), 1.0: (0.8, 0.9), 2.0: (0.1, 0.9)}, None, None),  # back at where it was is not below it
        ({0.0: (0.1, 0.9), 1.0: (0.05, 0.9), 2.0: (0.8, 0.9)}, None, None),  # below it before its peak
        ({0.0: (0.3, 0.9), 1.0: (0.2, 0.9), 2.0: (0.1, 0.4)}, None, 2.0),  # never raised: nothing to lose
        ({0.0: (0.1, 0.9), 4.0: (0.0, 0.2), 1.0: (0.8, 0.9), 2.0: (0.09, 0.5)}, 2.0, 4.0),  # in any order
    ],
)
def test_a_words_own_loss_and_that_of_all_words_are_two_facts(
    masses: dict[float, tuple[float, float]], named: float | None, whole: float | None
) -> None:
    points = curve(masses)
    assert named_lost(points) == named
    assert breaks(points) == (whole, None)


@pytest.mark.parametrize(
    ("masses", "p_best", "n", "said"),
    [
        (
            LOST_ALONE,
            1 / 6,
            5,
            "“red” 0.100 -> 0.850 at alpha 1, its best; beyond all 5 random directions at their best (p = 0.167), too few"
            " to tell: 19 would be enough; “red” itself is lost from alpha 4.9 on (below its unsteered probability);"
            " colour words together keep at least half of their mass.",
        ),
        (
            {0.0: (0.1, 0.9), 1.0: (0.8, 0.9), 2.0: (0.0, 0.1)},
            1 / 21,
            20,
            "“red” 0.100 -> 0.800 at alpha 1, its best; beyond all 20 random directions at their best (p = 0.048);"
            " “red” itself is lost from alpha 2 on (below its unsteered probability);"
            " from alpha 2 on less than half of the colour words' probability is left.",
        ),
        (
            {0.0: (0.1, 0.9), 1.0: (0.2, 0.9)},
            4 / 21,
            20,
            "“red” 0.100 -> 0.200 at alpha 1, its best; 3 of 20 random directions do as well at their best (p = 0.190);"
            " no strength tried breaks the answers down.",
        ),
        (
            {0.0: (0.3, 0.9), 1.0: (0.2, 0.9)},
            1 / 21,
            20,
            "“red” 0.300 -> 0.200 at alpha 1, its best; no strength tried raises it;"
            " no strength tried breaks the answers down.",
        ),
    ],
)
def test_what_is_said_of_a_curve_is_what_its_numbers_are(
    found: ColourEffect, masses: dict[float, tuple[float, float]], p_best: float, n: int, said: str
) -> None:
    points = curve(masses)
    made = replace(
        found,
        word="red",
        points=points,
        p_best=p_best,
        n_random=n,
        breaks_at=breaks(points)[0],
        named_lost_at=named_lost(points),
    )
    assert found_in(made) == said


def test_the_names_of_the_curves_are_below_the_panel_where_no_curve_is(found: ColourEffect) -> None:
    drawn = svg_of(colour_chart(found), prefix="c")
    axis = drawn.rindex("alpha (multiples of the vector)")
    for name in ("any colour word", "the right colour"):
        assert drawn.count(f">{name}</text>") == 1
        assert drawn.index(f">{name}</text>") > axis  # a legend is drawn after the axes


def test_the_picture_says_that_the_word_alone_is_lost(found: ColourEffect) -> None:
    drawn = replace(found, breaks_at=None, named_lost_at=4.9)
    assert "only “red” is lost, from alpha 4.9 on" in svg_of(colour_chart(drawn), prefix="c")
