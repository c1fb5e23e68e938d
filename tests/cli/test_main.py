"""The program as a whole: exit codes, what bugs and interrupts look like, and how light its start is."""

import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from steercache.cli.main import COMMANDS, run
from steercache.core import errors
from tests.cli.small import RUN, Terminal, write_work_folder

HEAVY = {"torch", "zarr", "duckdb", "numpy", "pyarrow", "rich", "transformers", "nnsight", "sklearn", "pydantic"}
IMPORTED = """
import sys
from steercache.cli.main import run
code = 0
for words in eval(sys.argv[1]):
    code = code or run(words)
    sys.stdout.flush()
print("loaded", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def steercache(*words: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "steercache.cli.main", *words], capture_output=True, text=True, check=False, **kwargs
    )


def loaded_by(*commands: tuple[str, ...]) -> set[str]:
    """The packages that one process has imported after these commands."""
    done = subprocess.run([sys.executable, "-c", IMPORTED, repr(commands)], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split()[1:])


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | int]:
    """A command `break` that raises what is put into the list, or exits with it."""
    what: list[BaseException | int] = []

    @click.command()
    @click.pass_context
    def broken(ctx: click.Context) -> None:
        if isinstance(what[0], int):
            ctx.exit(what[0])
        raise what[0]

    monkeypatch.setattr(sys.modules[__name__], "broken", broken, raising=False)
    monkeypatch.setitem(COMMANDS, "break", (f"{__name__}:broken", "breaks"))
    return what


def test_help_takes_well_under_a_second_of_cpu_and_loads_nothing_heavy() -> None:
    assert not HEAVY & loaded_by(("--help",))
    before = os.times()
    done = steercache("--help")
    after = os.times()
    assert done.returncode == 0
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.7
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


WITHOUT_MODEL = [
    ("query", "--list"),
    ("query", "anchor_tokens", "-p", "concept=counting"),
    ("cache", "status"),
    ("manifest", "list"),
    ("fit", "mean-shift", "--concept", "counting"),
    ("vectors", "show", "counting"),
    ("vectors", "refit", "counting"),
]


def test_commands_that_need_no_model_load_no_torch(built_once: Path) -> None:
    root = ("--root", str(built_once / "cache"))
    loaded = loaded_by(*((*words, *(() if words[0] == "manifest" else root)) for words in WITHOUT_MODEL))
    assert not {"torch", "transformers", "nnsight", "sklearn"} & loaded


def test_the_installed_program_exits_with_the_code(built_once: Path) -> None:
    assert steercache("cache", "status", "--root", str(built_once / "cache")).returncode == 0
    missing = steercache("cache", "status", "--root", str(built_once / "nowhere"))
    assert missing.returncode == 4
    assert missing.stdout == ""
    assert steercache("cache").returncode == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.ManifestError, 3),
        (errors.QueryError, 3),
        (errors.NotFoundError, 4),
        (errors.DamagedError, 5),
        (errors.MissingExtraError, 6),
        (errors.BusyError, 7),
        (errors.BudgetError, 8),
        (errors.PartlyFailedError, 9),
    ],
)
def test_every_class_of_error_has_its_exit_code(
    error: type[errors.SteercacheError], code: int, command_that: list[BaseException | int], terminal: Terminal
) -> None:
    command_that.append(error("it went wrong", place="here", hint="that"))
    assert terminal("break") == code
    assert terminal.err == "error: here: it went wrong\ntry: that\n"
    assert terminal.out == ""


@pytest.mark.parametrize("code", [0, 3, 5])
def test_a_command_that_exits_with_a_code_exits_with_it(
    code: int, command_that: list[BaseException | int], terminal: Terminal
) -> None:
    command_that.append(code)
    assert terminal("break") == code


def test_a_bug_exits_with_1_and_shows_its_traceback_only_when_asked(
    command_that: list[BaseException | int], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_that.append(KeyError("left_over"))
    assert terminal("break") == 1
    assert "KeyError: 'left_over'" in terminal.err
    assert "try: the same command with STEERCACHE_DEBUG=1" in terminal.err
    monkeypatch.setenv("STEERCACHE_DEBUG", "1")
    assert run(["break"]) == 1
    assert "Traceback" in terminal.capsys.readouterr().err


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), click.exceptions.Abort()], ids=["ctrl-c", "abort"])
def test_an_interrupt_exits_with_130(
    interrupt: BaseException, command_that: list[BaseException | int], terminal: Terminal
) -> None:
    command_that.append(interrupt)
    assert terminal("break") == 130
    assert "what was committed stays" in terminal.err


@pytest.mark.parametrize(
    ("error", "code", "named"),
    [
        (OSError(28, "No space left on device", "/somewhere"), 8, "/somewhere: No space left on device"),
        (PermissionError(13, "Permission denied", "/locked"), 2, "/locked: Permission denied"),
        (OSError("no number"), 2, "no number"),
    ],
)
def test_what_the_machine_refuses_is_no_bug_of_ours(
    error: OSError, code: int, named: str, command_that: list[BaseException | int], terminal: Terminal
) -> None:
    command_that.append(error)
    assert terminal("break") == code
    assert named in terminal.err
    assert "\ntry: " in terminal.err


def test_a_reader_that_goes_away_is_no_error(built_once: Path) -> None:
    sql = "SELECT a.piece AS x FROM tokens a, tokens b"
    command = [sys.executable, "-m", "steercache.cli.main", "query", sql, "--format", "csv"]
    process = subprocess.Popen(
        [*command, "--root", str(built_once / "cache")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b'"x"\n'
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (0, b"")
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("bild",), "No such command 'bild'"),
        (("build",), "Missing argument 'MANIFEST'"),
        (("cache", "compact", "x", "--codec", "zip"), "'zip' is not one of"),
        (("cache", "status", "--rot", "x"), "--rot"),
        (("build", "x", "--workers", "0"), "--workers"),
    ],
)
def test_a_mistyped_command_line_is_a_usage_error_with_the_help_to_read(
    words: tuple[str, ...], named: str, terminal: Terminal
) -> None:
    assert terminal(*words) == 2
    assert named in terminal.err
    last = terminal.err.splitlines()[-1]
    assert last.startswith("try: steercache")
    assert last.endswith("--help")
    assert terminal(*last.removeprefix("try: steercache").split()) == 0


def test_json_is_the_only_thing_on_stdout(work: Path, terminal: Terminal) -> None:
    for words in (
        ("cache", "status"),
        ("cache", "verify"),
        ("cache", "gc", "--dry-run"),
        ("cache", "rebuild"),
        ("plan", "my-trace.yaml"),
        ("build", "my-trace.yaml"),
        ("query", "--list"),
        ("vectors", "list"),
        ("manifest", "list"),
    ):
        assert terminal(*words, "--json") == 0, terminal.err
        json.loads(terminal.out)


@pytest.mark.parametrize("word", ["cache\0", "\0"])
def test_a_nul_in_an_argument_is_an_error_of_usage(word: str, terminal: Terminal) -> None:
    for words in (("vectors", "list", "--root", word), ("query", word), ("build", word), (word,)):
        assert terminal(*words) == 2, words
        assert "NUL" in terminal.err


def test_a_run_is_removed_and_its_damage_undone_with_json_as_the_only_thing_on_stdout(
    work: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert terminal("cache", "rebuild", "--json") == 0, terminal.err
    n_shards = json.loads(terminal.out)["n_shards"]
    assert n_shards == len(list(work.glob("cache/runs/*/shards/*/*.json"))) > 1
    next(work.glob("cache/runs/*/rows/*.parquet")).unlink()
    assert terminal("cache", "rm", RUN, "--shards", "--json") == 0, terminal.err
    assert len(json.loads(terminal.out)["shards"]) == 1
    assert terminal("cache", "rm", RUN, "--json") == 2, "nobody is there to answer"
    assert (terminal.out, "--yes" in terminal.err) == ("", True)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert terminal("cache", "rm", RUN) == 2
    assert f"steercache cache rm {RUN} --yes" in terminal.err
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert terminal("cache", "rm", RUN) == 130
    assert list(work.glob("cache/runs/*")) != []
    assert terminal("cache", "rm", RUN, "--yes", "--json") == 0, terminal.err
    assert json.loads(terminal.out)["n_bytes"] > 1000
    assert list(work.glob("cache/runs/*")) == []


PAIRS = [{"positive": f"be happy {i}", "negative": f"be sad {i}"} for i in range(8)]


@pytest.mark.parametrize(
    ("source", "rows", "fits"),
    [
        ({"type": "jsonl", "columns": {"anchor": "anchor", "concept": "concept"}}, None, ["--all-concepts"]),
        ({"type": "jsonl", "columns": {"anchor": "anchor"}}, None, []),
        ({"type": "jsonl", "columns": {"concept": "concept"}}, None, []),
        ({"type": "pairs"}, PAIRS, ["--query contrast_last"]),
    ],
)
def test_a_build_says_to_fit_what_its_labels_fit(
    tmp_path: Path, terminal: Terminal, source: dict[str, Any], rows: list[Any] | None, fits: list[str]
) -> None:
    folder = write_work_folder(tmp_path / "work")
    if rows is not None:
        (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = yaml.safe_load((folder / "my-trace.yaml").read_text())
    trace["datasets"][0]["source"] = {"path": "words.jsonl", **source}
    (folder / "my-trace.yaml").write_text(yaml.safe_dump(trace))
    root = str(folder / "cache")
    assert terminal("build", str(folder / "my-trace.yaml"), "--root", root) == 0, terminal.err
    said = [line.strip() for line in terminal.err.splitlines() if "steercache fit" in line]
    assert said == [f"steercache fit mean-shift {way} --root {root}" for way in fits]
    for command in said:
        assert terminal(*command.split()[1:], "--no-diagnose") == 0, terminal.err


def test_version_is_the_packages(terminal: Terminal) -> None:
    assert terminal("--version") == 0
    assert terminal.out.split()[-1] == version("steercache")
