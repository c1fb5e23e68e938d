"""Features of SAEs screened on a task, through the public API: ranks, marks, overlaps, exact runs."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import steercache
from steercache.cli.main import run as run_command
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.queries.session import open_session
from steercache.screening.features import screen_features
from steercache.screening.sae_screen import ScreenedSae
from steercache.stats.exact import overlap_p
from tests.sae.conftest import sae_lens
from tests.screening.sae_world import N_FEATURES, write_sae
from tests.screening.small_gradients import copied_root
from tests.world import World

__all__ = ["sae_lens"]

LAYERS, D, K = (1, 3), 96, 6
QUESTIONS: dict[str, Any] = {"task": "Count", "form": "number", "target": "image", "n": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest `mine` of an SAE for each of two layers."""
    folder = tmp_path_factory.mktemp("saes")
    for layer in LAYERS:
        write_sae(folder / f"layer{layer}", D, layer=layer)
    manifest = {
        "kind": "sae", "version": 1, "name": "mine", "source": {"type": "folder", "folder": "."},
        "saes": [{"layer": layer, "sae": f"layer{layer}"} for layer in LAYERS],
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(manifest))
    return folder


@pytest.fixture(scope="module")
def cache(world: World, tmp_path_factory: pytest.TempPathFactory) -> steercache.Cache:
    return steercache.open(copied_root(world, tmp_path_factory.mktemp("screened")))


def candidates(cache: steercache.Cache, folder: Path, features: dict[int, tuple[str, bool]], *, concept: str) -> None:
    """A vector of the SAE at the first layer whose fit considered these features, with their verdicts and whether picked."""
    spec = cache.sae(folder / f"layer{LAYERS[0]}").spec
    columns = {
        "feature": [*features],
        "verdict": [v for v, _ in features.values()],
        "picked": [p for _, p in features.values()],
    }
    cache.save(
        SteeringVector(
            name=f"{concept}-sae", method="sae", concept=concept, site="resid_post", layers=(LAYERS[0],),
            values=np.ones((1, D), np.float32),
            provenance={"saes": {str(LAYERS[0]): spec.record()}, "features": {str(LAYERS[0]): columns}},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(cache: steercache.Cache, folder: Path) -> ScreenedSae:
    """Before anybody chose a feature: this records the gradients."""
    return cache.screen_features(
        "tiny", "scenes", sae=folder / "mine.yaml", top=K, progress=False, **QUESTIONS
    ).screened


def test_all_decoder_rows_are_predicted_from_recorded_gradients(
    plain: ScreenedSae, cache: steercache.Cache, folder: Path
) -> None:
    decoders = {layer: cache.sae(folder / f"layer{layer}").decoder for layer in LAYERS}
    assert plain.gradients.layers == LAYERS
    assert (plain.n_features, plain.n_samples, plain.target) == (2 * N_FEATURES, 8, "image")
    expected = screen_features(plain.gradients, decoders, "image")
    assert [(r.layer, r.feature, r.alpha, r.shift, r.accuracy) for r in plain.rows] == [
        (e.layer, e.feature, e.alpha, e.shift, e.accuracy) for e in expected.effects
    ]
    assert all(o.n_marked == 0 and o.p is None for o in plain.overlaps)


def test_marks_and_overlap_are_of_the_features_that_fits_of_the_cache_chose(
    plain: ScreenedSae, cache: steercache.Cache, folder: Path
) -> None:
    first = [r.feature for r in plain.rows[:K] if r.layer == LAYERS[0]]
    others = [f for f in range(N_FEATURES) if (LAYERS[0], f) not in {r.place for r in plain.rows[:K]}]
    assert first
    said = {first[0]: ("yes", True), others[0]: ("no", True), others[1]: ("yes", False)}
    candidates(cache, folder, said, concept="counting")
    candidates(cache, folder, {others[2]: ("no", True)}, concept="colour")
    found = cache.screen_features(
        "tiny", "scenes", sae=folder / "mine.yaml", top=K, progress=False, **QUESTIONS
    ).screened
    assert found.run_id == plain.run_id
    by_place = {row.place: row for row in found.rows}
    assert by_place[LAYERS[0], first[0]].picked == by_place[LAYERS[0], first[0]].verified == ("counting",)
    assert all(not r.picked for r in found.rows if r.layer == LAYERS[1])
    sentences, judge = found.overlaps
    assert (sentences.chosen_by, sentences.n_marked, sentences.n_common, sentences.k) == ("sentences", 3, 1, K)
    assert (judge.chosen_by, judge.n_marked, judge.n_common) == ("judge", 1, 1)
    assert judge.p == pytest.approx(K / (2 * N_FEATURES))
    one = cache.screen_features(
        "tiny",
        "scenes",
        sae=folder / "mine.yaml",
        top=K,
        concept="colour",
        layers=LAYERS[0],
        progress=False,
        **QUESTIONS,
    )
    assert (one.overlaps[0].n_marked, one.overlaps[0].n_common, one.screened.n_features) == (1, 0, N_FEATURES)
    assert one.overlaps[0].p == 1


@pytest.mark.parametrize(("n_all", "n_marked", "n_drawn"), [(6, 2, 3), (7, 4, 5), (5, 5, 2), (6, 0, 3)])
def test_the_p_value_of_an_overlap_is_a_share_of_all_draws(n_all: int, n_marked: int, n_drawn: int) -> None:
    draws = [len({*draw} & {*range(n_marked)}) for draw in combinations(range(n_all), n_drawn)]
    for common in range(min(n_marked, n_drawn) + 1):
        expected = sum(d >= common for d in draws) / len(draws)
        assert overlap_p(common, n_drawn, n_marked=n_marked, n_all=n_all) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UsageError, match="in common"):
        overlap_p(n_drawn + 1, n_drawn, n_marked=n_marked, n_all=n_all)


def test_an_sae_of_another_model_layer_or_width_is_refused_before_gradients(
    cache: steercache.Cache, tmp_path: Path
) -> None:
    session = open_session(Path(cache.root))
    n_runs = len(session.cache.documents())
    for name, how, said in (
        ("other", {"model": "gemma-2-2b"}, "gemma-2-2b, the steered model is tiny"),
        ("deep", {"layer": 40}, "layer 40, the model has"),
        ("wide", {"d": D + 1}, f"width {D + 1}"),
    ):
        path = write_sae(tmp_path / name, how.pop("d", D), **({"layer": 1} | how))  # type: ignore[arg-type, operator]
        with pytest.raises(UsageError, match=said):
            cache.screen_features("tiny", "scenes", sae=path, progress=False, **QUESTIONS)
    assert len(session.cache.documents()) == n_runs


def test_exact_runs_are_those_of_single_decoder_rows_beside_live_features_of_like_rate(
    plain: ScreenedSae, cache: steercache.Cache, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"sae": folder / "mine.yaml", "exact": 2, "seed": 3, "progress": False, **QUESTIONS}
    with pytest.raises(UsageError, match="which of its features are live"):
        cache.screen_features("tiny", "scenes", **asked)
    (run,) = (r.name for r in cache.session.cache.documents() if r.model.name == "tiny-backbone")
    found = cache.screen_features("tiny", "scenes", live=run, **asked)
    exact = found.exact
    assert exact is not None
    assert exact.n_computed > 0
    best, random = ([r for r in exact.rows if r.group == group] for group in ("best", "random"))
    assert [(r.layer, r.feature) for r in best] == [r.place for r in plain.rows[:2]]
    assert [(r.predicted, r.alpha) for r in best] == [(r.accuracy, r.alpha) for r in plain.rows[:2]]
    assert sorted((r.layer, abs(r.alpha)) for r in best) == sorted((r.layer, abs(r.alpha)) for r in random)
    assert not {(r.layer, r.feature) for r in random} & {r.place for r in plain.rows[:2]}
    for row in random:
        rows, _ = cache.encoded(f"mine-l{row.layer}").feature(row.feature)
        assert row.rate == len(rows) / cache.encoded(f"mine-l{row.layer}").n_rows > 0
    for row in (best[0], random[-1]):
        unit = cache.sae(folder / f"layer{row.layer}").decoder[row.feature]
        values = (unit / np.linalg.norm(unit))[None]
        by_hand = SteeringVector(
            name=f"by-hand-{row.group}",
            method="made",
            concept=None,
            site="resid_post",
            layers=(row.layer,),
            values=values,
        )
        cache.save(by_hand)
        table = cache.evaluate(
            "tiny", "scenes", vectors=[by_hand], layers=row.layer, alphas=row.alpha, targets="image", split="test",
            controls=0, prompting="", damage=False, n=8, task="Count", form="number", allow_foreign=True, progress=False,
        ).table  # fmt: skip
        compared = table.row("test", by_hand.name).comparison
        assert (compared.after, compared.gain.estimate) == (row.exact, row.exact_gain)
        assert compared.before == exact.baseline

    words = ("tiny", "scenes", "--task", "Count", "--form", "number", "--n", "8", "--sae", str(folder / "mine.yaml"))
    more = ("--target", "image", "--exact", "2", "--seed", "3", "--top", "4", "--root", str(cache.root))
    assert run_command(["screen", *words, *more, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["exact"]["n_computed"], len(shown["features"])) == (0, 4)
    assert [r["exact"] for r in shown["exact"]["rows"]] == [r.exact for r in exact.rows]
    assert run_command(["screen", *words, *more]) == 0
    told = capsys.readouterr()
    for said in ("the best 4 of 120 features", "picked for", "8 questions of the test split", "random: mean gain"):
        assert said in told.out
    assert "live features" in told.err
    assert run_command(["screen", "tiny-scenes", "--sae", "mine", "--root", str(cache.root)]) == 2
    assert run_command(["screen", *words, "--nulls", "5", "--root", str(cache.root)]) == 2
    assert run_command(["screen", "tiny", "scenes", "--exact", "5", "--root", str(cache.root)]) == 2
