"""The script for a GPU runs on the CPU with tiny models of the same classes: its checks hold, and every line is there."""

import json
import sys
from pathlib import Path

import pytest

from bench import gpu
from bench.gpu_models import MODELS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in transformers' PaliGemmaProcessor
@pytest.mark.parametrize("name", list(MODELS))
def test_a_tiny_model_of_each_class_passes_every_check(name: str, tmp_path: Path) -> None:
    rows = list(gpu.run(size="small", device="cpu", names=[name], folder=tmp_path))
    checks = [row for row in rows if row["target"] == "<= 0"]
    assert [row["name"] for row in checks if not row["met"]] == []
    said = " | ".join(row["name"] for row in checks)
    assert all(what in said for what in ("of a plain forward", "branched answers", "replayed answers"))
    assert sum("build of" in row["name"] for row in rows) == 4  # all layers and one, each with the parts of its time
    assert any("exact grid" in row["name"] for row in rows) == ("idefics" in name or "paligemma" in name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_check_that_fails_is_seen_in_the_exit_status_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [gpu.check("rows that are other", 0), gpu.check("answers that are other", 2)]
    monkeypatch.setattr(gpu, "run", lambda **_: iter(rows))
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 1
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["met"] for row in told["rows"]] == [True, False]
    assert told["device"] == "cpu"
