"""Traces through a chat template: whose tokens are whose, and which day it is."""

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steercache.cache.handle import CacheFolder, open_cache
from steercache.core.errors import ManifestError
from steercache.core.examples import Example, ImageRef
from steercache.engines.crew import EngineOptions
from steercache.queries.session import open_session
from steercache.runs.dates import notes_on_dates
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.overview import overview
from steercache.runs.plan import Plan, plan_run
from tests.models.tiny import TEMPLATE, write_tiny
from tests.tracing import SmallTrace, write_small_trace

TEXTS = ["the cat on it", "two dogs ran on the table", "in front of the moon on it", "a car on the small red box"] * 3
DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + TEMPLATE
SYSTEM = "be kind to the cat"
MIDNIGHT = (datetime.date(2031, 12, 31), datetime.date(2032, 1, 1))


def write_trace(
    folder: Path, *, chat: bool = True, template: str = TEMPLATE, model: Any = None, **trace: Any
) -> SmallTrace:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        write_tiny("llama", folder / "model", max_position_embeddings=256)
    (folder / "chat.jinja").write_text(template)
    rows = [{"text": f"{text} {i}", "anchor": "on", "concept": "counting"} for i, text in enumerate(TEXTS)]
    document = {"kind": "model", "version": 1, "name": "tiny", "source": {"type": "path", "folder": "model"}}
    dataset = {
        "kind": "dataset",
        "version": 1,
        "name": "words",
        "source": {"type": "jsonl", "path": "data.jsonl", "columns": {"anchor": "anchor", "concept": "concept"}},
        "chat": {"apply": chat, **({"system": SYSTEM} if chat else {})},
    }
    small = write_small_trace(
        folder,
        model=document | {"chat_template": "chat.jinja"} | (model or {}),
        datasets=[dataset],
        rows_per_shard=128,
        **trace,
    )
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return small


def planned(trace: SmallTrace, root: Path, **fields: Any) -> tuple[CacheFolder, Plan, Any]:
    prepared = prepare_trace(trace.manifest, cache_root=root, device="cpu", **fields)
    cache = open_cache(root, create=True)
    return cache, plan_run(prepared.job, cache=cache), prepared


def test_controls_of_a_chat_are_the_examples_own_words(tmp_path: Path) -> None:
    root = tmp_path / "root"
    trace = write_trace(tmp_path / "t")
    trace.build(root)
    session = open_session(root)
    rows = session.sql(
        "select s.text, t.char_start, t.char_end, t.kind, t.is_anchor, t.is_control from tokens t"
        " join samples s using (run_id, sample_idx) order by sample_idx, position"
    ).fetchall()
    kinds = {"template": "", "text": "", "special": ""}
    for text, start, end, kind, is_anchor, is_control in rows:
        if kind == "special":
            continue
        turn = text.index("<|user|>\n") + len("<|user|>\n")
        own = turn <= start < text.index("<|end|>", turn)
        assert (kind == "text") == own, (text, text[start:end])
        assert (is_anchor or is_control) == own
        kinds[kind] += text[start:end].strip()
    assert SYSTEM.replace(" ", "") in kinds["template"].replace(" ", "")
    picked = session.select("anchor_vs_control", concept="counting")
    assert len(picked) == sum(1 for row in rows if row[4] or row[5])
    assert (
        session.sql("select comment from duckdb_columns() where column_name = 'kind'")
        .fetchall()[0][0]
        .count("template")
    )


@pytest.mark.parametrize(
    "policy", [{"policy": "text"}, {"policy": "roles", "roles": ["template"]}, {"policy": "pooled"}]
)
def test_row_policies_tell_template_and_text_apart(tmp_path: Path, policy: dict[str, Any]) -> None:
    root = tmp_path / "root"
    write_trace(tmp_path / "t", rows=policy).build(root)
    kept = open_session(root).sql(
        "select kind, count(*) from tokens where row_idx is not null group by all order by all"
    )
    found = dict(kept.fetchall())
    if policy["policy"] == "pooled":
        assert found == {"text": 12, "special": 12, "template": 12}
    else:
        assert found.keys() == {"text" if policy["policy"] == "text" else "template"}


def test_runs_without_a_template_keep_their_ids_and_those_with_one_do_not(tmp_path: Path) -> None:
    plain = planned(write_trace(tmp_path / "t", chat=False), tmp_path / "root")[1].document
    assert plain.identity.keys() == {"model", "inputs", "kept"}
    chat = planned(write_trace(tmp_path / "t"), tmp_path / "root")[1].document
    assert chat.identity["template"] == {"kind": True}
    later = planned(write_trace(tmp_path / "t"), tmp_path / "root", template_date=MIDNIGHT[1])[1].document
    assert later.run_id == chat.run_id


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_build_over_midnight_finishes(tmp_path: Path, workers: int) -> None:
    """The plan is made on another day than the shards are traced."""
    cache, plan, prepared = planned(
        write_trace(tmp_path / "t", template=DATED), tmp_path / "root", template_date=MIDNIGHT[0]
    )
    assert len(plan.document.shards) > 2
    assert plan.document.identity["template"] == {"kind": True, "date": "2031-12-31"}
    build_run(cache, plan, prepared, BuildOptions(engine=EngineOptions(workers=workers)))
    texts = open_session(tmp_path / "root").sql("select distinct left(text, 22) from samples").fetchall()
    assert texts == [("Today is 31 Dec 2031.\n",)]
    assert prepared.again().job.bundle.template_date == MIDNIGHT[0]


def test_the_next_days_plan_says_what_differs_and_how_to_reuse_the_rows(tmp_path: Path) -> None:
    root, trace = tmp_path / "root", write_trace(tmp_path / "t", template=DATED)
    cache, first, prepared = planned(trace, root, template_date=MIDNIGHT[0])
    build_run(cache, first, prepared)
    _, second, _ = planned(trace, root, template_date=MIDNIGHT[1])
    assert second.document.run_id != first.document.run_id
    (said,) = overview(cache, root, second).notes
    assert "small" in said
    assert "traced with 2031-12-31, this plan has 2032-01-01" in said
    assert "set `template_date: 2031-12-31` in the model manifest" in said
    again = write_trace(tmp_path / "t", template=DATED, model={"template_date": "2031-12-31"})
    _, third, _ = planned(again, root)
    assert third.document.run_id == first.document.run_id
    assert overview(cache, root, third).n_shards_cached == len(third.document.shards)
    assert notes_on_dates(cache, third.document) == ()
    other = write_trace(tmp_path / "t", template=DATED, layers=[1])
    assert notes_on_dates(cache, planned(other, root, template_date=MIDNIGHT[1])[1].document) == ()


def test_a_dates_type_is_checked_by_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="template_date"):
        planned(write_trace(tmp_path / "t", model={"template_date": "yesterday"}), tmp_path / "root")


def test_a_template_that_fails_and_a_broken_picture_are_not_said_to_be_about_anchors(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        planned(write_trace(tmp_path / "t", template="{{ 1 / 0 }}"), tmp_path / "root")
    assert "12 of 12 samples cannot be traced" in str(caught.value)
    assert "ZeroDivisionError" in caught.value.problems[0].message
    assert "chat template" in str(caught.value.hint)
    assert "anchor" not in str(caught.value.hint)
    trace = write_trace(tmp_path / "t", chat=False)
    job = prepare_trace(trace.manifest, cache_root=tmp_path / "root", device="cpu").job
    broken = Example(dataset="d", place="d:1", text="a", images=(ImageRef(name="x.png", load=lambda: b"GIF89a"),))
    pictures = replace(job, datasets=(replace(job.datasets[0], examples=[broken]),))
    with pytest.raises(ManifestError) as caught:
        plan_run(pictures)
    assert "picture" in str(caught.value.hint)
    assert "anchor" not in str(caught.value.hint)
