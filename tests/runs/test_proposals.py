"""What `plan` proposes within a budget: sizes are those of a plan that asks for the choice, consequences those of a build."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from steercache.cli.plan import plan as plan_command
from steercache.manifests.trace import RowPolicy
from steercache.runs.budget import Proposal, propose, shortlist
from steercache.runs.job import prepare_trace
from steercache.runs.plan import TraceJob, plan_run
from tests.tracing import SmallTrace, write_small_trace

BUDGET_GB = 0.0006


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    return write_small_trace(tmp_path_factory.mktemp("t"), n=40, rows_per_shard=None)


@pytest.fixture(scope="module")
def job(trace: SmallTrace) -> TraceJob:
    return prepare_trace(trace.manifest, cache_root=trace.folder / "none", device="cpu").job


@pytest.fixture(scope="module")
def proposals(job: TraceJob) -> tuple[Proposal, ...]:
    return propose(job, round(BUDGET_GB * 1e9))


def test_the_size_of_every_choice_is_that_of_a_plan_that_asks_for_it(
    job: TraceJob, proposals: tuple[Proposal, ...]
) -> None:
    raw = [one for one in proposals if one.codec == "raw"]
    assert {one.rows for one in raw} == {"all", "text", "last", "pooled"}  # there are no pictures
    assert len({one.layers for one in raw}) >= 2
    for one in raw:
        changes = {"layers": one.layers, "rows": RowPolicy.model_validate({"policy": one.rows})}
        planned = plan_run(replace(job, manifest=job.manifest.model_copy(update=changes)))
        assert (one.n_rows, one.n_bytes) == (planned.document.n_rows, planned.n_bytes)
        assert one.replay == planned.document.replayable
        assert one.n_bytes_written == one.n_bytes


def test_choices_that_fit_come_first_and_keep_more_before_less(proposals: tuple[Proposal, ...]) -> None:
    fits = [one.fits for one in proposals]
    assert fits == sorted(fits, reverse=True)
    assert 0 < sum(fits) < len(fits)
    assert all(one.fits == (one.n_bytes <= BUDGET_GB * 1e9) for one in proposals)
    kept = [one.n_kept for one in proposals if one.fits]
    assert kept == sorted(kept, reverse=True)
    changed = [one for one in proposals if one.codec == "int8"]
    assert not any(one.replay or one.exact for one in changed)
    assert not any(one.saes or one.replay for one in proposals if one.rows == "pooled")


def test_of_choices_that_keep_the_same_the_one_that_allows_most_is_shown(proposals: tuple[Proposal, ...]) -> None:
    shown = shortlist(proposals)
    assert all(one.fits for one in shown)
    assert len({(one.layers, one.n_rows, one.saes) for one in shown}) == len(shown)
    for one in (p for p in proposals if p.fits):  # nothing that was left out allows more than one that is shown
        assert any(
            (by.layers, by.n_rows) == (one.layers, one.n_rows)
            and (by.exact, by.replay, by.saes) >= (one.exact, one.replay, one.saes)
            for by in shown
        )
    none = [replace(one, fits=False) for one in proposals]
    assert [one.n_bytes for one in shortlist(none)] == sorted(one.n_bytes for one in none)[:3]


def test_the_command_shows_what_fits_and_its_json_has_every_choice(
    trace: SmallTrace, proposals: tuple[Proposal, ...], tmp_path: Path
) -> None:
    asked = [str(trace.manifest), "--root", str(tmp_path / "none"), "--budget", f"{BUDGET_GB:.5f}"]
    said = CliRunner().invoke(plan_command, [*asked, "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["budget_bytes"] == round(BUDGET_GB * 1e9)
    assert [(one["rows"], one["codec"], one["n_bytes"]) for one in found["proposals"]] == [
        (one.rows, one.codec, one.n_bytes) for one in proposals
    ]
    table = CliRunner().invoke(plan_command, asked)
    assert table.exit_code == 0, table.output
    assert "Within 600 kB" in table.output
