"""A vector from an SAE: planted features are found, verdicts decide, its provenance makes it again, controls miss them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.cache.vector_files import read_vector, write_vector
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.selection import Selection
from steercache.fit import diagnose
from steercache.fit.recipes import differences
from steercache.sae.again import recorded_saes, refit
from steercache.sae.candidates import Encodes, encode_rows, find_candidates
from steercache.sae.controls import SAE_CONTROL_KINDS, LiveRows, control_direction
from steercache.sae.loading import load_sae
from steercache.sae.single import feature_vector
from steercache.sae.vector import UNVERIFIED, Verification, feature_vectors, features_of, sae
from steercache.sae.verdict import Verdict
from tests.fit.test_refit import Answering
from tests.sae.planted_rows import EVERYWHERE, PLANTED, S, directions, planted_rows, sae_folder

SELECTIONS = ("paper", "firing_rate", "sparse_probe")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Encodes:
    return load_sae(sae_folder(tmp_path_factory.mktemp("sae") / "planted"))


def said(answers: dict[int, str | None], by: Any = "judge") -> Verification:
    verdicts = [
        Verdict(
            layer=1, feature=f, answer=a, by="m", digest=f"d{f}", prompt_version=1, problem=None if a else "HTTP 500"
        )  # type: ignore[arg-type]
        for f, a in answers.items()
    ]
    return Verification(by=by, verdicts=tuple(verdicts), facts={"model": "m"})


def unit_mean(rows: Any) -> np.ndarray:
    mean = directions()[list(rows)].astype(np.float64).mean(axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_planted_features_are_found_and_the_vector_is_their_mean(selection: str, loaded: Encodes) -> None:
    sel = planted_rows()
    (found,) = find_candidates(sel, [loaded], selection=selection)
    picked = [c.feature for c in found.picked]
    assert set(PLANTED) <= set(picked)
    vector = sae(
        sel, [loaded], selection=selection, verification=said({f: "yes" if f in PLANTED else "no" for f in picked})
    )
    assert set(features_of(vector, 1)) == set(PLANTED)
    np.testing.assert_allclose(vector.at(1), unit_mean(PLANTED), atol=1e-6)
    assert np.linalg.norm(vector.at(1)) == pytest.approx(1.0)
    assert (vector.method, vector.concept, vector.layers, vector.site) == ("sae", "counting", (1,), "resid_post")
    assert EVERYWHERE[0] in picked if selection == "paper" else EVERYWHERE[0] not in picked


def test_features_are_those_of_the_sae_on_the_output_of_its_block(loaded: Encodes) -> None:
    """By hand: relu of the rows of layer 1 along the decoder rows, less the threshold."""
    sel = planted_rows()
    expected = np.maximum(sel.gather(1) @ directions().T - 2.0, 0)
    np.testing.assert_allclose(encode_rows(loaded, sel.gather(1), n=7).dense(), expected, atol=1e-4)


def test_only_features_with_a_yes_are_in_the_vector_and_each_has_its_reason(loaded: Encodes) -> None:
    sel = planted_rows()
    vector = sae(sel, [loaded], verification=said({5: "yes", 17: "unclear", 60: None, 2: "no"}))
    assert features_of(vector, 1) == (5,)
    np.testing.assert_allclose(vector.at(1), directions()[5], atol=1e-6)
    columns = vector.provenance["features"]["1"]
    reason = dict(zip(columns["feature"], columns["reason"], strict=True))
    assert reason[17].endswith("; m: unclear")
    assert reason[60].endswith("; no verdict: HTTP 500")
    assert any(text.endswith("; no verdict: the judge says nothing about it") for text in reason.values())
    assert any("needs 2" in text for text in reason.values()), "what was not picked is there too"


def test_nobody_is_asked_silently(loaded: Encodes) -> None:
    with pytest.raises(UsageError, match="nobody has said"):
        sae(planted_rows(), [loaded])
    vector = sae(planted_rows(), [loaded], verification=UNVERIFIED)
    assert vector.provenance["verification"] == {"by": "unverified"}
    assert vector.name == "counting-sae-unverified"
    assert len(features_of(vector, 1)) == 16


def test_without_a_yes_there_is_no_vector_and_the_counts_are_said(loaded: Encodes) -> None:
    (found,) = find_candidates(planted_rows(), [loaded])
    answers: dict[int, str | None] = {c.feature: "no" for c in found.picked}
    answers |= {5: None, 17: "unclear"}
    with pytest.raises(UsageError, match=r"none of 16 .*14 no, 1 unclear, 1 without a verdict \(HTTP 500\)"):
        sae(planted_rows(), [loaded], verification=said(answers))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(
    "verification", [UNVERIFIED, said({5: "yes", 17: "yes", 60: None})], ids=["unverified", "judge"]
)
def test_fitted_again_from_its_provenance_it_has_the_same_bytes(
    selection: str, verification: Verification, loaded: Encodes
) -> None:
    sel = planted_rows()
    vector = sae(sel, [loaded], selection=selection, verification=verification)
    (found,) = find_candidates(sel, [loaded], selection=selection)
    parts = feature_vectors(sel, [found], vector, selection=selection, verification=verification)
    assert [p.values.tobytes() for p in parts] == [directions_of(f).tobytes() for f in features_of(vector, 1)]
    assert parts[0].name == f"{vector.name}-l1-f{features_of(vector, 1)[0]}"
    for one in (vector, *parts):
        again = refit(one, Answering(sel))
        assert again.values.tobytes() == one.values.tobytes()
        assert (again.vector_id, again.name) == (one.vector_id, one.name)
        assert differences(one, again) == []


def directions_of(feature: int) -> np.ndarray:
    return (directions()[feature].astype(np.float64) / np.linalg.norm(directions()[feature].astype(np.float64))).astype(
        np.float32
    )


def test_an_sae_with_other_weights_is_not_taken_for_the_vectors_own(tmp_path: Path) -> None:
    folder = sae_folder(tmp_path / "one")
    vector = sae(planted_rows(), [load_sae(folder)], verification=UNVERIFIED)
    sae_folder(folder, seed=1)
    with pytest.raises(UsageError, match="other weights now"):
        list(recorded_saes(vector))


def test_what_does_not_fit_is_refused(loaded: Encodes, tmp_path: Path) -> None:
    sel = planted_rows()
    with pytest.raises(UsageError, match="no selection named"):
        find_candidates(sel, [loaded], selection="best")
    with pytest.raises(UsageError, match="no SAE was given"):
        find_candidates(sel, [])
    with pytest.raises(UsageError, match="two SAEs of layer 1"):
        find_candidates(sel, [loaded, loaded])
    with pytest.raises(UsageError, match="needs rows with labels"):
        find_candidates(replace(sel, label=None), [loaded])
    with pytest.raises(UsageError, match="layer 7"):
        find_candidates(sel, [load_sae(sae_folder(tmp_path / "seven", layer=7))])
    sel.source.arrays[1][3, 0] = np.nan  # type: ignore[attr-defined]
    with pytest.raises(DamagedError, match="1 of 180 selected rows"):
        find_candidates(sel, [loaded])


def test_an_sae_vector_is_diagnosed_like_the_others(loaded: Encodes) -> None:
    sel = planted_rows()
    (measured,) = diagnose(sel, sae(sel, [loaded], verification=said(dict.fromkeys(PLANTED, "yes")))).diagnostics
    assert measured["auc"] > 0.99
    assert measured["held_out"] is False


def test_it_is_among_the_public_fits() -> None:
    assert steercache.fit.sae is sae
    assert "sae" in dir(steercache.fit)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("kind", SAE_CONTROL_KINDS)
def test_controls_do_not_find_the_planted_direction(kind: Any, selection: str, loaded: Encodes) -> None:
    sel = planted_rows()
    vector = sae(sel, [loaded], selection=selection, verification=said(dict.fromkeys(PLANTED, "yes")))
    rows = LiveRows(sel, [loaded], vector)
    made = [control_direction(rows, kind, seed=3, index=k) for k in range(6)]
    cosines = [float(m.values[0] @ vector.at(1)) for m in made]
    assert all(np.linalg.norm(m.values[0]) == pytest.approx(1.0, abs=1e-5) for m in made)
    assert np.mean(np.abs(cosines)) < 0.4
    assert len({m.values.tobytes() for m in made}) == 6
    again = control_direction(rows, kind, seed=3, index=2)
    assert again.values.tobytes() == made[2].values.tobytes()
    assert control_direction(rows, kind, seed=4, index=2).values.tobytes() != made[2].values.tobytes()


def test_controls_are_what_they_say(loaded: Encodes) -> None:
    sel = planted_rows()
    vector = sae(sel, [loaded], verification=said(dict.fromkeys(PLANTED, "yes")))
    rows = LiveRows(sel, [loaded], vector)
    acts = encode_rows(loaded, sel.gather(1)).dense()
    live = set(np.flatnonzero((acts > 0).any(axis=0)).tolist())
    rate = (acts > 0).mean(axis=0)
    own = features_of(vector, 1)
    for k in range(5):
        equal = control_direction(rows, "sae_live_features", seed=0, index=k)
        assert set(equal.features[1]) <= live - set(own)
        assert len(set(equal.features[1])) == len(own)
        np.testing.assert_allclose(equal.values[0], unit_mean(equal.features[1]), atol=1e-6)
        nearest = sorted(abs(rate[f] - rate[own[0]]) for f in live - set(own))
        assert abs(rate[equal.features[1][0]] - rate[own[0]]) <= nearest[15]
        moved = control_direction(rows, "sae_permuted_labels", seed=0, index=k)
        assert set(moved.features[1]) <= live | set(own)
        assert all(a != b for a, b in zip(moved.features[1], own, strict=True))
        encoder = control_direction(rows, "sae_random_encoder", seed=0, index=k)
        np.testing.assert_allclose(encoder.values[0], unit_mean(encoder.features[1]), atol=1e-6)
        decoder = control_direction(rows, "sae_random_decoder", seed=0, index=k)
        assert decoder.features[1] == own
        assert np.abs(directions() @ decoder.values[0]).max() < 0.9, "no row of the SAE"


def test_a_random_encoding_fires_as_often_as_the_sae() -> None:
    from steercache.sae.controls import random_encoding

    x = planted_rows().gather(1)
    acts = random_encoding(x, n_features=S, l0=5, rng=np.random.default_rng(0))
    assert acts.l0.tolist() == [5] * len(x)


def test_too_few_live_features_are_said(loaded: Encodes) -> None:
    sel: Selection = planted_rows()
    vector = sae(sel, [loaded], verification=UNVERIFIED)
    silent = replace(sel, source=replace(sel.source, arrays={1: sel.source.arrays[1] * 0}))  # type: ignore[attr-defined, type-var]
    with pytest.raises(UsageError, match="0 other features fire"):
        control_direction(LiveRows(silent, [loaded], vector), "sae_live_features", seed=0, index=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_recorded_sae_is_loaded_again_as_it_was_named_and_computed(dtype: str, tmp_path: Path) -> None:
    first = load_sae(sae_folder(tmp_path / "one"), dtype=dtype)
    (again,) = recorded_saes(sae(planted_rows(), [first], verification=UNVERIFIED))
    assert again.spec == first.spec


@pytest.mark.parametrize("source", [None, 5, {}, {"folder": 3}, {"release": "../x"}, {"release": None, "sae_id": []}])
def test_a_record_of_any_other_shape_is_an_error(source: Any) -> None:
    from steercache.sae.again import load_recorded

    with pytest.raises(UsageError, match="does not say where"):
        load_recorded({"sae_id": "a", "name": "n", "source": source})


@pytest.mark.parametrize("saes", [None, [], {"x": {}}, {"-1": {}}, {"1": 5}, {"9" * 40: {}}])
def test_a_vector_that_says_anything_of_its_saes_is_an_error(saes: Any, loaded: Encodes) -> None:
    vector = sae(planted_rows(), [loaded], verification=UNVERIFIED)
    odd = replace(vector, provenance={**vector.provenance, "saes": saes, "located": 3})
    with pytest.raises(UsageError):
        list(recorded_saes(odd))


def test_an_sae_that_was_moved_and_renamed_gives_the_same_vector(tmp_path: Path) -> None:
    """The id is that of the weights: a vector of another place is the same vector, and one of other weights is another."""
    sel = planted_rows()
    first = sae(sel, [load_sae(sae_folder(tmp_path / "here" / "one"))], verification=UNVERIFIED)
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "one").rename(tmp_path / "there" / "two")
    with pytest.raises(NotFoundError, match="'one' is not where the vector was fitted from it"):
        refit(first, Answering(sel))
    moved = load_sae(tmp_path / "there" / "two")
    second = sae(sel, [moved], verification=UNVERIFIED)
    assert (second.vector_id, second.provenance["located"]) != (second.vector_id, first.provenance["located"])
    assert second.vector_id == first.vector_id
    assert differences(first, second) == []
    assert refit(second, Answering(sel)).vector_id == first.vector_id
    one = feature_vector(moved, PLANTED[0])
    sae_folder(tmp_path / "copy")
    assert feature_vector(load_sae(tmp_path / "copy"), PLANTED[0]).vector_id == one.vector_id
    other = sae(sel, [load_sae(sae_folder(tmp_path / "else", seed=1))], verification=UNVERIFIED)
    assert other.vector_id != first.vector_id


def test_a_vector_of_an_earlier_version_keeps_its_id_and_is_fitted_again(tmp_path: Path) -> None:
    """Its `saes` hold names and places, which were part of the id: that id is checked when the file is read."""
    sel = planted_rows()
    first = sae(sel, [load_sae(sae_folder(tmp_path / "one"))], verification=UNVERIFIED)
    made = dict(first.provenance)
    old = replace(first, provenance={**made, "saes": made.pop("located")["saes"]})
    old = replace(old, provenance={k: v for k, v in old.provenance.items() if k != "located"})
    assert old.vector_id != first.vector_id
    write_vector(tmp_path / "old.safetensors", old)
    read = read_vector(tmp_path / "old.safetensors").vector
    assert read.vector_id == old.vector_id
    again = refit(read, Answering(sel))
    assert again.values.tobytes() == old.values.tobytes()
    assert differences(read, again) == []
