"""Drift against plain forward passes of both models; a text read by an MLLM is read as its language model alone reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

import steercache
from steercache import zoo
from steercache.analysis.drift import Drift, measure_drift
from steercache.cli.main import run
from steercache.core.errors import NotFoundError, UsageError
from steercache.fit import mean_shift
from steercache.queries.session import Session, open_session
from steercache.report.drift import drift_chart
from tests.sweeps.small_run import rows
from tests.tracing import write_small_trace

ROWS = rows()[::4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`backbone/`, `mllm/` and a cache `root/` with a text run of each, and one of other sentences."""
    folder = tmp_path_factory.mktemp("drift")
    source = {"type": "jsonl", "path": "rows.jsonl", "columns": {"anchor": "anchor", "concept": "concept"}}
    dataset = {"kind": "dataset", "version": 1, "name": "words", "source": source}
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, model, kept in (("backbone", "tiny-backbone", text), ("mllm", "tiny", text), ("other", "tiny", "")):
        zoo.build(model, folder / name / "model")
        source_of = {"type": "path", "folder": "model"}
        where = {"kind": "model", "version": 1, "name": model, "source": source_of, "dtype": "float32"}
        trace = write_small_trace(folder / name, name=name, model=where, datasets=[dataset])
        (folder / name / "rows.jsonl").write_text(kept or text.replace(".", " today."))
        trace.build(folder / "root")
    return folder


@pytest.fixture
def session(folder: Path) -> Session:
    return open_session(folder / "root")


@torch.no_grad()
def plainly(folder: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Per sentence: block outputs (l, t, d) of the backbone and of the MLLM's language model called alone, and anchors (t,)."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "backbone" / "model")
    text: Any = AutoModelForCausalLM.from_pretrained(folder / "backbone" / "model", dtype=torch.float32)
    mllm: Any = AutoModelForImageTextToText.from_pretrained(folder / "mllm" / "model", dtype=torch.float32)
    outputs: list[list[Any]] = [[], []]
    anchors = []
    for row in ROWS:
        encoded = tokenizer(row["text"], return_tensors="pt", return_offsets_mapping=True)
        start = row["text"].index(f" {row['anchor']} ") + 1 if f" {row['anchor']} " in row["text"] else 0
        spans = encoded.pop("offset_mapping")[0].tolist()
        anchors.append([b > start and a < start + len(row["anchor"]) and b > a for a, b in spans])
        for i, model in enumerate((text.model, mllm.model.language_model)):
            kept: list[Any] = []
            hooks = [m.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out)) for m in model.layers]
            model(input_ids=encoded["input_ids"])
            for hook in hooks:
                hook.remove()
            outputs[i].append(torch.stack([h[0] for h in kept]).double().numpy())
    return outputs[0], outputs[1], anchors


def test_the_recipe_for_the_own_vector_of_an_mllm_is_the_mean_shift_of_its_own_rows(folder: Path) -> None:
    _, outputs, anchors = plainly(folder)
    at = [i for i, row in enumerate(ROWS) if row["concept"] == "counting"]
    rows_ltd = np.concatenate([outputs[i] for i in at], axis=1)
    is_anchor = np.concatenate([anchors[i] for i in at])
    is_first = np.concatenate([np.arange(len(anchors[i])) == 0 for i in at])
    expected = rows_ltd[:, is_anchor].mean(axis=1) - rows_ltd[:, ~is_anchor & ~is_first].mean(axis=1)
    cache = steercache.open(folder / "root")
    (vector,) = cache.fit_recipe("own-mean-shift", concept="counting", run="mllm", diagnose=False)
    np.testing.assert_allclose(vector.values, expected, atol=1e-4 * np.abs(expected).max())
    assert vector.use is not None
    assert (vector.use.operation, vector.use.target, vector.use.phase) == ("add", "image", "prompt")
    (of_backbone,) = cache.fit_recipe("textual-mean-shift", concept="counting", run="backbone", diagnose=False)
    assert not np.allclose(of_backbone.values, vector.values, atol=1e-2)


def test_every_figure_is_that_of_two_plain_forward_passes(folder: Path, session: Session) -> None:
    found = measure_drift(session, "backbone", "mllm")
    a, b, anchors = plainly(folder)
    is_anchor = np.concatenate(anchors)
    first = np.concatenate([np.arange(len(one)) == 0 for one in anchors])
    roles = {"first": first, "anchor": is_anchor & ~first, "text": ~is_anchor & ~first}
    x, y = np.concatenate(a, axis=1), np.concatenate(b, axis=1)
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    distance = np.linalg.norm(x - y, axis=-1) / np.linalg.norm(x, axis=-1)
    ratio = np.linalg.norm(y, axis=-1) / np.linalg.norm(x, axis=-1)
    assert {(r.layer, r.role) for r in found.rows} == {(k, role) for k in range(6) for role in roles}
    for row in found.rows:
        mask = roles[row.role]
        assert row.n == mask.sum()
        assert row.cosine == pytest.approx(cosine[row.layer, mask].mean(), abs=1e-5)
        assert row.cosine_low == pytest.approx(np.quantile(cosine[row.layer, mask], 0.05), abs=1e-5)
        assert row.distance == pytest.approx(distance[row.layer, mask].mean(), rel=1e-4)
        assert row.norm_ratio == pytest.approx(ratio[row.layer, mask].mean(), rel=1e-4)
    assert (found.n_samples, found.n_tokens) == (len(ROWS), len(is_anchor))


def test_a_run_does_not_drift_from_itself(session: Session) -> None:
    found = measure_drift(session, "mllm", "mllm", layers=[0, 5])
    assert {row.layer for row in found.rows} == {0, 5}
    assert all(row.distance == 0 and row.cosine == pytest.approx(1) and row.norm_ratio == 1 for row in found.rows)
    assert all(row.unrelated is not None and row.unrelated < 0.99 for row in found.rows if row.role == "text")


def test_runs_without_a_common_input_or_layer_say_so(session: Session) -> None:
    with pytest.raises(NotFoundError, match="share no input"):
        measure_drift(session, "backbone", "other")
    with pytest.raises(UsageError, match="no layer 9"):
        measure_drift(session, "backbone", "mllm", layers=[1, 9])


def test_the_picture_holds_the_figures(session: Session) -> None:
    found: Drift = measure_drift(session, "backbone", "mllm")
    drawn = json.dumps(drift_chart(found).to_dict())
    assert "From tiny-backbone to tiny" in drawn
    for row in found.rows:
        assert json.dumps(row.cosine) in drawn
        assert json.dumps(row.distance) in drawn


def test_the_command_prints_a_table_or_json_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at_root = ["--root", str(folder / "root")]
    picture = folder / "deep" / "drift.svg"
    assert run(["report", "drift", "backbone", "mllm", "--out", str(picture), *at_root]) == 0
    assert "cos anchor" in capsys.readouterr().out
    assert "relative distance" in picture.read_text()
    assert run(["report", "drift", "mllm", "mllm", "--layer", "2", "--json", *at_root]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["distance"] for row in shown["drift"]["rows"]] == [0.0] * 3
    assert Path(shown["picture"]).read_bytes().startswith(b"\x89PNG")
    assert run(["report", "drift", "backbone", "nobody", *at_root]) == 4
    assert run(["report", "drift", "backbone", "mllm", "--out", "drift.jpg", *at_root]) == 2


def test_vectors_of_two_runs_are_paired_by_concept_and_method(session: Session) -> None:
    for name in ("backbone", "mllm"):
        for concept in ("counting", "entity"):
            vector = mean_shift(
                session.select("anchor_vs_control", concept=concept, run=name), name=f"{concept}-{name}"
            )
            session.save(vector)
    table = session.query("vectors_of_two_runs", run="backbone", other="mllm").to_arrow_table().to_pylist()
    assert [(row["concept"], row["layer"]) for row in table] == [
        (c, k) for c in ("counting", "entity") for k in range(6)
    ]
    for row in table:
        a, b = (session.vector(row[name]).at(row["layer"]) for name in ("vector", "other_vector"))
        assert (row["vector"], row["other_vector"]) == (f"{row['concept']}-backbone", f"{row['concept']}-mllm")
        assert row["cosine"] == pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-5)
