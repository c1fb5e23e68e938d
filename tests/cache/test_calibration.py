"""Measured numbers are kept by name; whatever is damaged has told nothing."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from steercache.cache import calibration
from steercache.cache.calibration import (
    MAX_AGE_S,
    block_seconds,
    correction,
    costs_key,
    forget_outcomes,
    read_seconds_per_byte,
    record_costs,
    record_outcome,
    record_speed,
    recorded_costs,
    tokens_per_second,
)
from steercache.cache.paths import RootPaths

NAMES = frozenset({"block_token_s", "head_row_s"})
KEY = costs_key("f" * 64, "float32", device="cpu", threads=2)
COSTS = {"block_token_s": 1.25e-6, "head_row_s": 0.0}


def test_what_was_measured_is_found_again_beside_what_was_there(tmp_path: Path) -> None:
    paths = RootPaths(tmp_path)
    record_speed(paths, "f" * 64, "float32", n_tokens=5000, seconds=2.0)
    record_costs(paths, KEY, COSTS)
    assert recorded_costs(paths, KEY, NAMES) == COSTS
    assert tokens_per_second(paths, "f" * 64, "float32") == 2500
    assert recorded_costs(paths, costs_key("f" * 64, "float32", device="cpu", threads=1), NAMES) is None
    assert recorded_costs(paths, KEY, NAMES | {"picture_s"}) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "[" * 100_000,
        json.dumps({KEY: 3}),
        json.dumps({KEY: {"block_token_s": 1.0}}),
        *(
            json.dumps({KEY: COSTS | {"head_row_s": bad}})
            for bad in ("1.0", None, True, -1.0, float("nan"), float("inf"), [1.0])
        ),
    ],
)
def test_a_damaged_file_has_told_nothing_and_is_written_anew(text: str, tmp_path: Path) -> None:
    paths = RootPaths(tmp_path)
    paths.calibration.write_text(text)
    assert recorded_costs(paths, KEY, NAMES) is None
    record_costs(paths, KEY, COSTS)
    assert recorded_costs(paths, KEY, NAMES) == COSTS


def test_a_plan_asks_for_the_kind_of_device_and_the_threads(tmp_path: Path) -> None:
    paths = RootPaths(tmp_path)
    record_costs(paths, costs_key("a" * 64, "bfloat16", device="cuda NVIDIA A100", threads=8), COSTS)

    def found(**changes: Any) -> float | None:
        asked: dict[str, Any] = {"fingerprint": "a" * 64, "dtype": "bfloat16", "device": "cuda", "threads": 8}
        asked |= changes
        return block_seconds(paths, asked.pop("fingerprint"), asked.pop("dtype"), **asked)

    assert found() == 1.25e-6
    assert found(fingerprint="b" * 64) is found(dtype="float32") is found(device="cpu") is found(threads=1) is None


def test_the_disk_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = RootPaths(tmp_path / "root")
    measured = iter([3e-9, 5e-9])
    monkeypatch.setattr(calibration, "_time_reading", lambda folder: next(measured))
    assert [read_seconds_per_byte(paths) for _ in range(2)] == [3e-9] * 2
    assert read_seconds_per_byte(paths, again=True) == read_seconds_per_byte(paths) == 5e-9


def test_a_disk_measured_long_ago_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = RootPaths(tmp_path)
    monkeypatch.setattr(calibration, "_time_reading", lambda folder: 3e-6)  # under load
    assert read_seconds_per_byte(paths) == 3e-6
    monkeypatch.setattr(calibration, "_time_reading", lambda folder: 3e-9)
    now = calibration.time.time()
    for age_s, found in ((MAX_AGE_S - 60, 3e-6), (MAX_AGE_S + 60, 3e-9)):
        monkeypatch.setattr(calibration.time, "time", lambda age_s=age_s: now + age_s)
        assert read_seconds_per_byte(paths) == found


def test_measuring_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    assert 0 < read_seconds_per_byte(RootPaths(tmp_path)) < 1e-3
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def _record_some(root: Path, worker: int) -> None:
    for i in range(15):
        record_costs(RootPaths(root), f"key-{worker}-{i}", {"s": 1.0})


def test_two_processes_that_measure_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record_some, args=(tmp_path, k)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [recorded_costs(RootPaths(tmp_path), f"key-{k}-{i}", frozenset({"s"})) for k in range(3) for i in range(15)]
    assert found == [{"s": 1.0}] * 45


def test_what_was_measured_long_ago_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, now = RootPaths(tmp_path), calibration.time.time()
    record_costs(paths, KEY, COSTS)
    assert recorded_costs(paths, KEY, NAMES, max_age_s=MAX_AGE_S) == COSTS
    for moved, there in ((MAX_AGE_S / 2, True), (2 * MAX_AGE_S, False), (-2 * MAX_AGE_S, False)):
        monkeypatch.setattr(calibration.time, "time", lambda moved=moved: now + moved)
        assert (recorded_costs(paths, KEY, NAMES, max_age_s=MAX_AGE_S) is not None) == there
    paths.calibration.write_text(json.dumps({KEY: COSTS}))  # as older versions wrote it
    assert recorded_costs(paths, KEY, NAMES) == COSTS
    assert recorded_costs(paths, KEY, NAMES, max_age_s=MAX_AGE_S) is None


def test_finished_jobs_correct_what_was_measured_under_load(tmp_path: Path) -> None:
    paths = RootPaths(tmp_path)
    assert correction(paths, KEY) == 1.0
    errors = []
    for _ in range(6):  # measured on a busy machine: everything is five times quicker than predicted
        record_outcome(paths, KEY, predicted_s=100.0, seconds=20.0)
        errors.append(abs(correction(paths, KEY) * 100.0 - 20.0))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.0
    record_outcome(paths, KEY, predicted_s=1.0, seconds=0.5)  # too short to tell
    record_outcome(paths, KEY, predicted_s=0.0, seconds=50.0)
    assert abs(correction(paths, KEY) * 100.0 - 20.0) == errors[-1]
    record_outcome(paths, KEY, predicted_s=1.0, seconds=1e9)
    assert correction(paths, KEY) <= 16
    forget_outcomes(paths, KEY)
    assert correction(paths, KEY) == 1.0
    paths.calibration.write_text(json.dumps({f"corrected-2/{KEY}": {"factor": "fast"}}))
    assert correction(paths, KEY) == 1.0
