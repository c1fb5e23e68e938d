"""Vectors from SAE features in sweeps, evaluations, screenings, pages and the colour experiment, as other vectors are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import steercache
from steercache.cli.main import run as run_command
from steercache.core.errors import ManifestError, UsageError
from steercache.fit.provenance import rows_digest
from steercache.manifests.load import parse_manifest
from steercache.queries.session import Session
from steercache.sae.loading import load_sae
from steercache.sae.vector import UNVERIFIED, features_of, sae
from tests.api.test_sae_fit import coordinates_sae
from tests.sweeps.small_sweep import COUNT, small_job, write_sweep
from tests.world import World

D, LAYER = 96, 2
FITS = {
    "methods": ["sae"],
    "concepts": ["counting"],
    "runs": ["small"],
    "sae": "coordinates",
    "selection": "firing_rate",
}


def test_a_sweep_fits_from_an_sae_once_and_takes_verified_vectors_of_the_cache(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    coordinates_sae(tmp_path / "coordinates", D, layer=LAYER)
    job: dict[str, Any] = {"vectors": None, "layers": [LAYER], "alpha_unit": "resid_norm", "alphas": [0.5]}
    with pytest.raises(UsageError, match="has verified features"):
        small_job(own_session, world.loaded, tmp_path, fits=[FITS], **job)
    own = [FITS | {"unverified": True, "methods": ["mean_shift", "sae"]}]
    made = small_job(own_session, world.loaded, tmp_path, fits=own, **job)
    shift, fitted = (arm.vector for arm in made.grid.arms)
    assert shift is not None
    assert fitted is not None
    assert (shift.method, fitted.method, fitted.layers) == ("mean_shift", "sae", (LAYER,))
    sel = own_session.select("anchor_vs_control", run="small", concept="counting")
    by_hand = sae(sel, [load_sae(tmp_path / "coordinates")], selection="firing_rate", verification=UNVERIFIED)
    assert fitted == by_hand
    assert features_of(fitted, LAYER)
    assert fitted.provenance["rows"]["digest"] == rows_digest(sel)
    assert made.lineages[fitted.vector_id] == "backbone"
    again = small_job(own_session, world.loaded, tmp_path, fits=own, **job)
    assert [arm.vector for arm in again.grid.arms] == [shift, fitted]
    with pytest.raises(UsageError, match="has verified features"):
        small_job(own_session, world.loaded, tmp_path, fits=[FITS], **job)
    # the SAE is known by its weights, wherever it lies and whatever lies where it lay
    (tmp_path / "coordinates").rename(tmp_path / "moved")
    elsewhere = [own[0] | {"methods": ["sae"], "sae": "moved"}]
    (arm,) = small_job(own_session, world.loaded, tmp_path, fits=elsewhere, **job).grid.arms
    assert arm.vector == fitted
    coordinates_sae(tmp_path / "coordinates", D, layer=LAYER, bias=0.001)
    (arm,) = small_job(own_session, world.loaded, tmp_path, fits=[own[0] | {"methods": ["sae"]}], **job).grid.arms
    assert arm.vector is not None
    assert arm.vector.provenance["saes"][str(LAYER)]["sae_id"] != fitted.provenance["saes"][str(LAYER)]["sae_id"]


def test_what_a_manifest_says_of_an_sae_belongs_to_the_method_and_leaves_other_sweeps_as_they_were(
    tmp_path: Path,
) -> None:
    sweep = write_sweep(tmp_path, fits=[{"concepts": ["counting"], "runs": ["small"]}]).sweep
    assert set(sweep.identity()["fits"][0]) == {"methods", "concepts", "runs", "recipe"}
    of_sae = write_sweep(tmp_path, fits=[FITS]).sweep
    assert of_sae.identity()["fits"][0]["selection"] == "firing_rate"
    document = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    for fits, said in (
        (FITS | {"sae": None}, "needs an `sae`"),
        (FITS | {"methods": ["mean_shift"]}, "is for the method"),
    ):
        with pytest.raises(ManifestError, match=said):
            parse_manifest(yaml.safe_dump(document | {"fits": [fits]}), file="sweep.yaml")


@pytest.mark.slow
def test_an_sae_vector_goes_through_eval_screen_grid_pages_and_colours(
    own_session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = coordinates_sae(tmp_path / "coordinates", D, layer=LAYER)
    cache = steercache.open(own_session.cache.root)
    vector, *parts = cache.fit(
        "sae", concept="counting", run="small", sae=folder, unverified=True, per_feature=True, progress=False
    )
    asked: dict[str, Any] = {"layers": LAYER, "alphas": 0.5, "alpha_unit": "resid_norm", "targets": "text", "n": 6}
    asked |= {"task": COUNT["task"], "form": COUNT["form"], "progress": False}
    screened = cache.screen("tiny", "scenes", vectors=[vector.name, parts[0].name], **asked)
    assert {row.vector for row in screened.grid.best(4)} == {vector.name, parts[0].name}
    kinds = ["sae_live_features", "sae_random_decoder", "covariance", "random"]
    result = cache.evaluate(
        "tiny", "scenes", vectors=[vector], controls=4, control_kinds=kinds, prompting="", damage=False, **asked
    )  # fmt: skip
    (row,) = result.choices
    assert (row.method, row.lineage, {c.kind for c in row.controls}) == ("sae", "backbone", {*kinds})
    assert "counting-sae-unverified" in cache.report(result, tmp_path / "eval.html").read_text()
    resolved = write_sweep(
        tmp_path / "sweep", vectors=[vector.name], layers=[LAYER], alphas=[3], targets=["image"], n=6,
        fits=[{"methods": ["sae"], "concepts": ["entity"], "runs": ["small"], "sae": str(folder), "unverified": True}],
    )  # fmt: skip
    assert resolved.sweep.fits
    sweep = cache.sweep(tmp_path / "sweep" / "sweep.yaml")
    (task,) = sweep.run(damage=False, progress=False).tasks
    assert {r.name for r in task.choices} == {"counting-sae-unverified", "entity-sae-unverified"}
    assert "entity-sae-unverified" in sweep.report(tmp_path / "grid.html").read_text()

    root = ("--root", str(cache.root))
    with pytest.raises(UsageError, match="picked a feature"):
        cache.feature_vector(folder, concept="red")
    feature = cache.feature_vector(folder, concept="counting")
    best = features_of(vector, LAYER)[0]
    assert feature.provenance["feature"] == best
    np.testing.assert_array_equal(feature.values[0], np.where(np.arange(D) == best % D, 1 if best < D else -1, 0))
    words = ("report", "colours", "tiny", "--sae", str(folder), "--word", "red", "--n", "3", "--random", "2")
    more = ("--alpha", "2", "--out", str(tmp_path / "colours.svg"), *root)
    assert run_command([*words, *more]) == 2, "no fit of the concept red"
    assert run_command([*words, "--feature", "7", *more]) == 0, capsys.readouterr().err
    assert "coordinates-f7 on the image tokens at layer 2" in capsys.readouterr().out
    assert run_command(["report", "colours", "tiny", "--layer", "2", *root]) == 2
