"""The study's page says what its tables hold: the tables are made from results.json, and so is every number of the text."""

import csv
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from steercache.manifests.load import parse_manifest
from steercache.stats.paired import holm
from tests.docs.blocks import REPOSITORY

FOLDER = REPOSITORY / "docs" / "study"
PAGE = (REPOSITORY / "docs" / "study.md").read_text(encoding="utf-8")
CHOSEN = {".125"}  # smallest p of seven nulls: no measurement
RESULTS: dict[str, Any] = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def load_collector() -> ModuleType:
    spec = importlib.util.spec_from_file_location("collect", FOLDER / "collect.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


collect = load_collector()


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    assert sorted(name for _, name, _ in collect.BLOCK.findall(PAGE)) == sorted(collect.tables(RESULTS))
    assert collect.filled(PAGE, RESULTS) == PAGE


def test_a_changed_result_changes_the_page() -> None:
    changed = json.loads(json.dumps(RESULTS))
    changed["rows"][0]["test"]["gain"] += 0.1
    assert collect.filled(PAGE, changed) != PAGE


def test_every_measured_number_of_the_text_is_in_a_table() -> None:
    text = collect.BLOCK.sub("", PAGE).replace("2505.14071", "").split("## What was in the way")[0]
    shown = {
        number.lstrip("+-0") for table in collect.tables(RESULTS).values() for number in re.findall(r"\d*\.\d+", table)
    }
    measured = [number.lstrip("+-0") for number in re.findall(r"[+-]?\d?\.\d{3,}", text)]
    measured = [number for number in measured if number not in CHOSEN]
    assert [number for number in measured if number not in shown] == []


def test_every_split_has_500_questions_and_the_intervals_hold_their_gains() -> None:
    for row in RESULTS["rows"]:
        for split in ("search", "test"):
            found = row[split]
            assert found["n"] == 500
            assert found["low"] <= found["gain"] <= found["high"]
            assert found["gain"] == pytest.approx(found["after"] - found["before"], abs=2e-4)
            assert found["gain"] == pytest.approx((found["helped"] - found["hurt"]) / found["n"], abs=2e-4)


def test_holm_is_over_all_tests_of_the_study() -> None:
    tests = [row["test"] for row in RESULTS["rows"]]
    adjusted = holm([one["p"] for one in tests])
    assert [one["p_holm"] for one in tests] == pytest.approx([float(p) for p in adjusted], abs=1e-3)


def test_the_csv_has_the_same_vectors() -> None:
    with (FOLDER / "gains.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["task"], line["method"], float(line["test_gain"])) for line in lines] == [
        (row["task"], row["method"], row["test"]["gain"]) for row in RESULTS["rows"]
    ]


def test_the_cells_are_cells_of_the_committed_manifests() -> None:
    for row in RESULTS["rows"]:
        kind = "-sae" if row["method"] == "sae" else ""
        path: Path = FOLDER / f"study-{row['task'].lower()}{kind}.yaml"
        sweep: Any = parse_manifest(path.read_text(encoding="utf-8"), file=path.name)
        assert row["alpha"] in sweep.alphas
        assert row["target"] in sweep.targets
        assert sweep.layers == "all" or row["layer"] in sweep.layers


def test_a_sheet_has_a_verdict_on_every_feature() -> None:
    sheets = sorted(FOLDER.glob("verdicts-*.csv"))
    assert len(sheets) == len(collect.TASKS)
    for sheet in sheets:
        with sheet.open(newline="", encoding="utf-8") as file:
            assert {line["verdict"] for line in csv.DictReader(file)} <= {"yes", "no", "unclear"}


def test_what_the_page_says_of_all_gains_holds() -> None:
    assert "no 95 % interval of a gain lies above 0, and every one excludes a gain of more than three points" in PAGE
    tests = [row["test"] for row in RESULTS["rows"]]
    assert max(one["low"] for one in tests) <= 0
    assert max(one["high"] for one in tests) < 0.03
    assert "no p value stays below .05\nwhen it is adjusted" in PAGE
    assert min(one["p_holm"] for one in tests) > 0.05
    for splits in RESULTS["baselines"].values():
        assert all(0.55 <= one["right"] <= 0.85 for one in splits.values())


def test_what_the_page_says_of_predictions_and_prompting_holds() -> None:
    wrong_by = sorted(abs(row["predicted"] - row["search"]["gain"]) for row in RESULTS["rows"])
    assert "Eleven of the twelve predicted gains are within one point" in PAGE
    assert wrong_by[-2] <= 0.01
    assert wrong_by[-1] == pytest.approx(0.05, abs=1e-3)
    below = {task for task, one in RESULTS["prompting"].items() if one["high"] < 0}
    assert below == {"Count", "Attribute"}
    assert max(one["low"] for one in RESULTS["prompting"].values()) <= 0
