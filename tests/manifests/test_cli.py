"""`steercache manifest` at the terminal."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from steercache.cli.main import main
from steercache.core.shipped import shipped_folder
from steercache.manifests.schema import json_schema


def installed_program() -> None:
    """What the script that pip writes does."""
    sys.exit(main())  # type: ignore[func-returns-value]


class Terminal:
    """Runs the command as the installed program does; keeps what it printed and its exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        self.monkeypatch.setattr("sys.argv", ["steercache", "manifest", *words])
        with pytest.raises(SystemExit) as caught:
            installed_program()
        self.out, self.err = self.capsys.readouterr()
        return int(caught.value.code or 0)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def broken(folder: Path) -> tuple[Path, Path]:
    first, second = folder / "a.yaml", folder / "b.yaml"
    first.write_text("kind: model\nversion: 1\nname: A\nsource: {type: hub, id: a/b}\ndtype: half\n")
    second.write_text("kind: trace\nversion: 1\nname: t\nmodel: nobody\ndatasets: [concepts]\n")
    return first, second


def test_check_says_ok_for_a_file_a_name_and_a_folder(terminal: Terminal) -> None:
    folder = shipped_folder("manifests")
    assert terminal("check", "concepts", str(folder / "models" / "gemma-2-2b.yaml"), str(folder / "traces")) == 0
    assert "ok: dataset concepts" in terminal.out
    assert "ok: model gemma-2-2b" in terminal.out
    assert "ok: trace smollm2-concepts" in terminal.out


def test_check_knows_the_benchmarks_and_tasks_that_a_sweep_may_name(terminal: Terminal, tmp_path: Path) -> None:
    assert terminal("check", str(shipped_folder("manifests") / "sweeps")) == 0
    assert "ok: sweep demo-scenes" in terminal.out
    path = tmp_path / "s.yaml"
    path.write_text(
        "kind: sweep\nversion: 1\nname: s\nmodel: {zoo: tiny}\nvectors: [v]\nalphas: [1]\ntasks:\n"
        "  - {benchmark: scenes, task: Colour}\n  - {benchmark: cv_bench}\n"
    )
    assert terminal("check", str(path)) == 3
    assert f"{path}:8: tasks.0.task: 'Colour' is none of Relation, Count" in terminal.err
    assert f"{path}:9: tasks.1.benchmark: 'cv_bench' is none of" in terminal.err
    assert "did you mean `cv-bench`?" in terminal.err


def test_check_names_every_problem_of_every_file_on_stderr(terminal: Terminal, tmp_path: Path) -> None:
    first, second = broken(tmp_path)
    assert terminal("check", str(first), str(second), "concepts") == 3
    assert terminal.out.startswith("ok: dataset concepts")
    for expected in (
        f"{first}:3: name: ",
        f"{first}:5: dtype: ",
        f"{second}:4: model: no model manifest named 'nobody'",
    ):
        assert expected in terminal.err
    assert "Traceback" not in terminal.err


def test_check_as_json_prints_one_document_and_the_same_exit_code(terminal: Terminal, tmp_path: Path) -> None:
    first, second = broken(tmp_path)
    assert terminal("check", "--json", str(tmp_path)) == 3
    report: dict[str, Any] = json.loads(terminal.out)
    assert report["ok"] is False
    assert [(p["file"], p["line"], p["loc"], p["kind"]) for p in report["problems"]] == [
        (str(first), 3, "name", "pattern"),
        (str(first), 5, "dtype", "choice"),
        (str(second), 4, "model", "unknown_reference"),
    ]


def test_check_with_rows_reads_the_data_too(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "On it", "anchor": "on"}\n{"txt": 1}\n')
    path = tmp_path / "d.yaml"
    path.write_text(
        "kind: dataset\nversion: 1\nname: d\nsource: {type: jsonl, path: d.jsonl, columns: {anchor: anchor}}\n"
    )
    assert terminal("check", str(path)) == 0
    assert terminal("check", "--rows", str(path)) == 3
    assert "d.jsonl:1: anchor: " in terminal.err
    assert "d.jsonl:2: text: " in terminal.err
    (tmp_path / "d.jsonl").unlink()
    assert terminal("check", "--rows", str(path)) == 3
    assert "there is no such data file" in terminal.err


def test_a_name_that_is_not_there_exits_with_4_and_the_nearest_one(terminal: Terminal) -> None:
    assert terminal("show", "smollm2-135") == 4
    assert "did you mean `smollm2-135m`?" in terminal.err


def test_list_has_the_shipped_ones_and_those_of_search_folders(terminal: Terminal, tmp_path: Path) -> None:
    broken(tmp_path)
    assert terminal("list", "--json", "--search", str(tmp_path)) == 0
    rows = json.loads(terminal.out)
    assert {(row["kind"], row["name"]) for row in rows} >= {
        ("invalid", "a"),
        ("trace", "t"),
        ("model", "smollm2-135m"),
        ("dataset", "concepts"),
    }
    assert terminal("list", "--kind", "dataset") == 0
    assert "concepts" in terminal.out
    assert "smollm2" not in terminal.out


def test_show_prints_the_file_and_as_json_every_default(terminal: Terminal) -> None:
    assert terminal("show", "smollm2-concepts") == 0
    assert terminal.out == (shipped_folder("manifests") / "traces" / "smollm2-concepts.yaml").read_text()
    assert terminal("show", "smollm2-concepts", "--json") == 0
    assert json.loads(terminal.out)["chunk_rows"] == 256


def test_schema_prints_what_editors_read(terminal: Terminal) -> None:
    assert terminal("schema", "trace") == 0
    assert json.loads(terminal.out) == json_schema("trace")
    assert terminal("schema", "trase") == 2
    assert "did you mean `trace`?" in terminal.err
