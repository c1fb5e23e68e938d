"""Folders of any name as `--root`: each works through the whole flow, or is refused before anything is written."""

import os
from pathlib import Path

import pytest

import steercache
from steercache.cache.handle import open_cache
from steercache.core.errors import UsageError
from tests.cli.small import RUN, Terminal

FLOW = (
    ("cache", "status"),
    ("cache", "verify"),
    ("query", "concept_counts"),
    ("query", "select activation(run_id, 'resid_post', 0, row_idx) from tokens limit 1"),
    ("vectors", "refit", "counting"),
    ("cache", "rebuild"),
    ("cache", "compact", RUN),
    ("cache", "gc"),
    ("cache", "verify"),
)
GOOD = [
    "st*ar",
    "per%cent",
    "%41",
    "ha#sh",
    " bl ank ",
    "new\nline",
    "quo'te\"",
    "a;b$c&d!",
    "[br]{ce}",
    "file:x",
    "s3:",
    "md:x",
]
GOOD += ["-dash", "\u00e9\u65e5", "\x1b[31mred", "\u202e", "x" * 200]
REFUSED = ["que?stion", "back\\slash", os.fsdecode(b"\xff\xfe")]


@pytest.mark.parametrize("name", GOOD)
def test_a_folder_of_any_name_is_a_cache(
    name: str, work: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "cache").rename(work / name)
    for words in FLOW[:5] if name != GOOD[0] else FLOW:
        assert terminal(*words, f"--root={name}") == 0, (words, terminal.err)


def test_an_address_is_a_root(work: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERCACHE_MIRRORS", str(work / "mirrors"))
    address = f"file://{work}/place"
    assert terminal("push", RUN, address) == 0, terminal.err
    for words in (*FLOW[:4], ("cache", "rebuild"), ("cache", "gc")):
        assert terminal(*words, f"--root={address}") == 0, (words, terminal.err)
    assert terminal("cache", "status", f"--root={address}") == 0
    assert f"the cache is at {address}, its documents are mirrored in {work}/mirrors/place-" in terminal.out
    assert terminal("build", "my-trace.yaml", f"--root={address}") == 0
    assert "everything was cached already" in terminal.out
    for words in (("cache", "compact", RUN), ("cache", "rm", RUN, "--yes")):
        assert terminal(*words, f"--root={address}") == 2, (words, terminal.out)
        assert "\ntry: " in terminal.err
    assert terminal("vectors", "list", f"--root={address}") == 0
    assert f" --root {address}\n" in terminal.err
    assert terminal("cache", "status", "--root=s3://key:secret@bucket/x") == 2
    assert "secret" not in terminal.err
    assert not [path for path in (work / "mirrors").rglob("c.0.*") if path.is_file()]


@pytest.mark.parametrize(
    "words",
    [
        ("activations", "copy", RUN, "s3://bucket/part", "--layer=2"),
        ("activations", "export", "select row_idx from tokens", "s3://bucket/rows.parquet"),
        ("activations", "import", "gs://bucket/rows"),
        ("vectors", "export", "counting", "--output=az://container/x.gguf"),
        ("query", "runs_overview", "--output=file:///tmp/x.csv"),
        ("zoo", "build", "tiny", "s3://bucket/model"),
    ],
)
def test_an_address_where_a_path_is_meant_makes_no_folder_of_that_name(
    words: tuple[str, ...], tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert terminal(*words) == 2
    assert "is an address" in terminal.err
    assert "\ntry: " in terminal.err
    assert not list(tmp_path.iterdir())


def test_parts_and_rows_are_not_written_to_an_address(work: Path) -> None:
    cache = steercache.open("cache")
    with pytest.raises(UsageError, match="cannot be written to an address"):
        cache.copy_part(RUN, "s3://bucket/part", layers=[2])
    with pytest.raises(UsageError, match="cannot be written to an address"):
        cache.export(cache.select("anchor_vs_control", concept="counting"), "s3://bucket/rows.parquet")
    assert not (work / "s3:").exists()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", [("build", "my-trace.yaml"), ("plan", "my-trace.yaml"), ("cache", "status")])
def test_a_folder_that_duckdb_cannot_use_is_refused_before_anything_is_written(
    name: str, command: tuple[str, ...], work: Path, terminal: Terminal
) -> None:
    before = sorted(work.rglob("*"))
    assert terminal(*command, f"--root={name}") == 2
    assert "cannot lie in a folder with" in terminal.err or "is no path" in terminal.err
    assert "\ntry: " in terminal.err
    assert sorted(work.rglob("*")) == before
    with pytest.raises(UsageError):
        open_cache(work / name, create=True)
    assert sorted(work.rglob("*")) == before


def test_a_link_to_such_a_folder_is_refused_too(work: Path, terminal: Terminal) -> None:
    (work / "a?b").mkdir()
    (work / "plain").symlink_to(work / "a?b")
    assert terminal("build", "my-trace.yaml", "--root=plain") == 2
    (work / "circle").symlink_to(work / "circle")
    assert terminal("cache", "status", "--root=circle") in (2, 4)


def test_a_tilde_is_the_home_folder_for_every_part_of_the_program(
    work: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert terminal("build", "my-trace.yaml", "--root=~/inner") == 0, terminal.err
    assert terminal("cache", "verify", "--root=~/inner") == 0, terminal.err
    assert not (work / "~").exists()
    assert (tmp_path / "home" / "inner" / "index.duckdb").exists()
    assert len(open_cache(Path("~/inner")).documents()) == 1
    assert terminal("cache", "status", "--root=~no-such-user/x") == 2
