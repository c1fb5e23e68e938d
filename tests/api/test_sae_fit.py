"""Vectors from an SAE through the public API: judged, by a sheet, unverified; fitted again; evaluated with controls."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.core.errors import UsageError
from steercache.core.trials import SAE_CONTROL_KINDS
from tests.sae.chat_server import Handler, serving, status
from tests.sae.coordinates import LAYER, coordinates_sae

SENTENCES = [
    ("There are two cats.", "two", "counting"), ("We see three dogs.", "three", "counting"),
    ("She has four birds.", "four", "counting"), ("I want five eggs.", "five", "counting"),
    ("The cup is red today.", "red", "colour"), ("A blue car passed us.", "blue", "colour"),
    ("His green coat is old.", "green", "colour"), ("My black dog sleeps.", "black", "colour"),
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> steercache.Cache:
    folder = tmp_path_factory.mktemp("saefit")
    with (folder / "words.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "anchor", "concept"), *SENTENCES])
    opened = steercache.open(folder / "root", create=True)
    opened.build(folder / "words.csv", model="tiny-backbone", progress=False)
    return opened


@pytest.fixture(scope="module")
def sae(cache: steercache.Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    d = cache.select("all_rows", run="words").gather(LAYER).shape[1]
    return coordinates_sae(tmp_path_factory.mktemp("sae") / "coordinates", d)


def answering(h: Handler) -> None:
    """Yes to a feature whose evidence shows a number word, no to the rest."""
    shown = h.asked["messages"][1]["content"]
    yes = any(f"<<{space}{word}>>" in shown for space in ("", " ") for word in ("two", "three", "four", "five"))
    text = f"VERDICT: {'YES' if yes else 'NO'}\nbecause"
    h.send(200, json.dumps({"model": "m", "choices": [{"message": {"content": text}}]}).encode())


@pytest.fixture(scope="module")
def judge() -> Iterator[Any]:
    with serving(answering) as server:
        yield steercache.JudgeEndpoint(base_url=server.url, model="m", concurrency=1, wait_s=0.01, attempts=2)


def test_a_judged_vector_is_the_mean_of_its_features_and_every_candidate_is_a_row(
    cache: steercache.Cache, sae: Path, judge: Any
) -> None:
    fitted = cache.fit("sae", concept="counting", run="words", sae=sae, judge=judge, per_feature=True, progress=False)
    vector, parts = fitted[0], fitted[1:]
    assert (vector.name, vector.layers, vector.method) == ("counting-sae", (LAYER,), "sae")
    rows = cache.sql(
        "SELECT feature_idx, selected, picked, verdict, verdict_digest, reason, weight FROM features"
        " WHERE vector_id = $v ORDER BY rank",
        v=vector.vector_id,
    ).fetchall()
    chosen = [row[0] for row in rows if row[1]]
    assert chosen
    assert {row[3] for row in rows if row[2]} <= {"yes", "no"}
    assert all(row[5] for row in rows)
    d = vector.hidden_size
    by_hand = np.zeros(d)
    for f in chosen:
        by_hand[f % d] += 1 if f < d else -1
    np.testing.assert_allclose(vector.at(LAYER), by_hand / np.linalg.norm(by_hand), atol=1e-6)
    assert len(parts) == len(chosen)
    assert cache.refit("counting-sae") == vector
    for part in parts[:2]:
        assert cache.refit(part.vector_id) == part
    (measured,) = vector.diagnostics
    assert measured["sae_explained"] == pytest.approx(1.0)
    assert measured["resid_norm"] > 0
    digests = {row[4] for row in rows if row[4]}
    assert {f.stem for f in (cache.root / "sae" / "verdicts").iterdir()} == digests
    with serving(answering) as server:  # the same model at another address: the same vector, and nobody is asked again
        moved = steercache.JudgeEndpoint(base_url=server.url, model="m", attempts=2)
        (same,) = cache.fit(
            "sae", concept="counting", run="words", sae=sae, judge=moved, diagnose=False, progress=False
        )
        assert (same.vector_id, server.seen) == (vector.vector_id, [])
    assert same.provenance["located"]["verification"] == {"endpoint": server.url}
    cache.rebuild(progress=False)
    again = cache.sql("SELECT count(*) FROM features WHERE vector_id = $v", v=vector.vector_id).fetchall()
    assert again == [(len(rows),)]


def test_without_a_reply_nothing_is_taken_and_with_some_the_rest_is_counted(
    cache: steercache.Cache, sae: Path, judge: Any
) -> None:
    with serving(status(401, b'{"error": "no key"}')) as server:
        refusing = steercache.JudgeEndpoint(base_url=server.url, model="other", attempts=1)
        with pytest.raises(UsageError, match=r"without a verdict \(HTTP 401: no key\)") as refused:
            cache.fit("sae", concept="counting", run="words", sae=sae, judge=refusing, name="never", progress=False)
        assert "replies that came are kept" in str(refused.value.hint)
    with serving(status(400, b"{}"), answering) as server:
        partly = steercache.JudgeEndpoint(base_url=server.url, model="other", concurrency=1)
        with pytest.warns(steercache.core.errors.SteercacheWarning, match="1 of 16 picked features have no verdict"):
            (vector,) = cache.fit(
                "sae", concept="counting", run="words", sae=sae, judge=partly, name="p", progress=False
            )
    assert vector.provenance["verification"]["model"] == "other"


def test_a_sheet_is_written_filled_in_and_read(cache: steercache.Cache, sae: Path, tmp_path: Path) -> None:
    table, text = cache.review_sae(sae, tmp_path / "sheet", concept="colour", run="words", progress=False)
    assert "<<" in table.read_text()
    assert text.read_text().startswith("# Features picked for colour")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["verdict"] = "yes" if i < 3 else ""
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (vector,) = cache.fit("sae", concept="colour", run="words", sae=sae, verdicts=table, progress=False)
    columns = vector.provenance["features"][str(LAYER)]
    taken = [f for f, s in zip(columns["feature"], columns["selected"], strict=True) if s]
    assert taken == [int(row["feature"]) for row in rows[:3]]
    assert cache.refit(vector.vector_id) == vector


def test_one_way_to_verify_and_one_sae_are_needed(cache: steercache.Cache, sae: Path, judge: Any) -> None:
    with pytest.raises(UsageError, match="one way to verify"):
        cache.fit("sae", concept="counting", sae=sae, progress=False)
    with pytest.raises(UsageError, match="not several"):
        cache.fit("sae", concept="counting", sae=sae, judge=judge, unverified=True, progress=False)
    with pytest.raises(UsageError, match="needs one"):
        cache.fit("sae", concept="counting", unverified=True, progress=False)


def test_an_sae_of_another_place_or_of_no_use_is_refused(cache: steercache.Cache, sae: Path, tmp_path: Path) -> None:
    d = cache.select("all_rows", run="words").gather(LAYER).shape[1]
    far = coordinates_sae(tmp_path / "far", d, layer=77)
    with pytest.raises(UsageError, match="77"):
        cache.fit("sae", concept="counting", run="words", sae=far, unverified=True, progress=False)
    useless = coordinates_sae(tmp_path / "useless", d, bias=9.0)
    with pytest.raises(UsageError, match="explains none of the variance"):
        cache.fit("sae", concept="counting", run="words", sae=useless, unverified=True, progress=False)
    x = cache.select("anchor_vs_control", concept="counting", run="words").gather(LAYER).astype(np.float64)
    total = ((x - x.mean(axis=0)) ** 2).sum()
    shares = {b: 1 - (np.minimum(np.abs(x), b) ** 2).sum() / total for b in np.linspace(0, np.abs(x).max(), 200)}
    weak = coordinates_sae(tmp_path / "weak", d, bias=-next(b for b, share in shares.items() if share < 0.4))
    with pytest.warns(steercache.core.errors.SteercacheWarning, match="explains [0-9]+% of the variance of these rows"):
        cache.fit("sae", concept="counting", run="words", sae=weak, unverified=True, progress=False, name="weak")


@pytest.mark.slow
def test_all_concepts_at_once_and_controls_as_arms(cache: steercache.Cache, sae: Path, tmp_path: Path) -> None:
    fitted = cache.fit("sae", all_concepts=True, run="words", sae=sae, unverified=True, progress=False)
    assert [v.name for v in fitted] == ["colour-sae-unverified", "counting-sae-unverified"]
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"question": f"The cat is {w}. Which {i}?", "choices": ["red", "blue"], "answer": w}
        for i, w in enumerate(["red", "blue"] * 4)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = ("label_shuffled", *SAE_CONTROL_KINDS)
    result = cache.evaluate(
        "tiny-backbone", questions, vectors=[fitted[1]], layers=LAYER, alphas=1.0, n=3, controls=10,
        control_kinds=kinds, damage=False, progress=False,
    )  # fmt: skip
    made = cache.sql(
        "SELECT control_kind, count(*) FROM vectors WHERE control_kind IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert made == [(kind, 2) for kind in sorted(kinds)]
    assert not [note for note in result.notes if "controls" in note]
