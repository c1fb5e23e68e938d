"""The example notebooks run, and their committed outputs name no machine."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import REPOSITORY


def load_runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", REPOSITORY / "docs" / "examples" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks = load_runner()
SMALL = {
    "text-steering": {"MODEL": "tiny-backbone", "LAYER": 2},
    "sql-over-activations": {"TRACE": "tiny-concepts", "LAYER": 3},
    "multimodal-grid": {"N": 12, "NULLS": 2},
}


def test_every_notebook_is_run_here() -> None:
    assert notebooks.names() == sorted(SMALL)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "multimodal-grid" else name for name in SMALL]
)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEERCACHE_ROOT", raising=False)
    done = notebooks.run(notebooks.read(name), tmp_path, settings=SMALL[name])
    assert all(cell["outputs"] is not None for cell in done["cells"] if cell["cell_type"] == "code")
    assert (tmp_path / "cache" / "index.duckdb").is_file()


@pytest.mark.slow
def test_the_text_notebook_gives_its_committed_measurements_on_the_real_model(tmp_path: Path) -> None:
    committed = notebooks.read("text-steering")
    done = notebooks.run(committed, tmp_path)
    written = ["".join(out.get("text", [])) for cell in done["cells"] for out in cell.get("outputs", [])]
    assert any(text.startswith("Today I feel\n") for text in written)
    shown = [out for cell in done["cells"] for out in cell.get("outputs", []) if "data" in out]
    kept = [out for cell in committed["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert shown[0]["data"] == kept[0]["data"], "labels of the selection"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_notebook_is_committed_with_small_outputs_and_without_paths_of_a_machine(name: str) -> None:
    path = REPOSITORY / "docs" / "examples" / f"{name}.ipynb"
    assert path.stat().st_size < 40_000
    cells = [cell for cell in notebooks.read(name)["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in cells) >= 4
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/", path.read_text(encoding="utf-8"))


def test_the_runner_shows_what_is_printed_and_the_last_value_and_stops_at_an_error(tmp_path: Path) -> None:
    cells = [{"cell_type": "code", "source": ["N = 1\n", "print('a')\n", "N + 1"]}]
    cells.append({"cell_type": "code", "source": ["open('x', 'w').close(); N * 10"]})
    first, second = notebooks.run({"cells": cells}, tmp_path, settings={"N": 5})["cells"]
    assert [out.get("text") or out["data"]["text/plain"] for out in first["outputs"]] == [["a\n"], ["2"]]
    assert second["outputs"][0]["data"]["text/plain"] == ["50"]
    assert (tmp_path / "x").is_file()
    with pytest.raises(KeyError, match="M"):
        notebooks.run({"cells": cells}, tmp_path, settings={"M": 5})
    with pytest.raises(ZeroDivisionError):
        notebooks.run({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}, tmp_path)


def test_an_executed_notebook_shows_a_cache_and_its_vectors_as_pictures_and_text(tmp_path: Path) -> None:
    source = "import numpy as np, steercache\ncache = steercache.open('cache', create=True)\ncache"
    made = (
        "v = steercache.SteeringVector(name='made', method='mean_shift', concept=None, site='resid_post', layers=(0, 1),"
        " values=np.ones((2, 3), dtype=np.float32))\ncache.save(v)\nv"
    )
    cells = [{"cell_type": "code", "source": [text]} for text in (source, made)]
    shown = [cell["outputs"][-1]["data"] for cell in notebooks.run({"cells": cells}, tmp_path)["cells"]]
    assert "vectors" in "".join(shown[0]["text/html"])
    assert "<svg" in "".join(shown[1]["text/html"])
    assert "".join(shown[1]["text/plain"]).startswith("<SteeringVector 'made'")
