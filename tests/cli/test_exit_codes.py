"""Every class of error has the exit code that `core.errors` documents, and no error is raised without a class."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import duckdb
import pytest

import steercache
from steercache.core import errors
from steercache.index.io_errors import io_error
from tests.cli.small import Terminal

DOCUMENTED = {name: int(code) for name, code in re.findall(r"[├└]── (\w+Error)\s+(\d+)", errors.__doc__ or "")}
CODES = {0, *DOCUMENTED.values(), 130}
PACKAGE = Path(steercache.__file__).parent


def subclasses(base: type[errors.SteercacheError]) -> set[type[errors.SteercacheError]]:
    return {base}.union(*(subclasses(each) for each in base.__subclasses__()))


def test_the_table_in_the_documentation_is_the_tree_of_classes() -> None:
    assert set(DOCUMENTED) == {
        each.__name__ for each in errors.SteercacheError.__subclasses__() if each.__module__ == errors.__name__
    }
    assert all(getattr(errors, name).exit_code == code for name, code in DOCUMENTED.items())
    assert sorted(DOCUMENTED.values()) == [2, 3, 3, 4, 5, 6, 7, 8, 9]


def test_every_class_of_error_in_every_module_has_a_documented_code() -> None:
    for module in pkgutil.walk_packages([str(PACKAGE)], "steercache."):
        if not any(
            part in module.name for part in (".zoo.", ".inspect_entry", ".inspect_provider")
        ):  # training scripts, peers
            importlib.import_module(module.name)
    found = subclasses(errors.SteercacheError) - {errors.SteercacheError}
    assert len(found) > len(DOCUMENTED)
    assert {each.__name__: each.exit_code for each in found if each.exit_code not in CODES - {0, 130}} == {}


def test_no_error_is_raised_without_a_class() -> None:
    bare = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("SteercacheError")
    ]
    assert bare == []


SQL = [  # statement or name, exit code
    ("selec 1", 3),
    ("select nobody from tokens", 3),
    ("select * from nobody", 3),
    ("select 1; select 2", 3),
    ("drop table runs", 3),
    ("select 1/0 as x", 0),
    ("select cast('x' as int)", 3),
    ("select $a", 3),
    ("select range(10000000000)", (3, 8)),
    ("select vector('nobody', 0)", (3, 4)),
    ("select activation('nobody', 'resid_post', 0, 0)", (3, 4)),
    ("select activation(run_id, 'resid_post', 999, 0) from runs", (2, 3, 4)),
    ("select activation(run_id, 'resid_post', 0, 99999999) from runs", (2, 3, 4)),
    ("nobody", 4),
    ("-- name: x\n-- kind: nope\nselect 1", 3),
    ("select unnest(range(1000000)) a, a + 9223372036854775807", 3),
    ("select repeat('x', 3000000000)", (3, 8)),
]


@pytest.mark.parametrize(("sql", "code"), SQL, ids=[sql[:30] for sql, _ in SQL])
def test_what_is_wrong_with_a_query_is_class_3_and_what_is_not_there_class_4(
    sql: str, code: int | tuple[int, ...], built_once: Path, terminal: Terminal
) -> None:
    root = str(built_once / "cache")
    found = terminal("query", "--root", root, "--json", "--time-limit", "20", "--memory-limit", "256", "--", sql)
    assert found in (code if isinstance(code, tuple) else (code,)), terminal.err
    assert found == 0 or "\ntry: " in terminal.err


@pytest.mark.parametrize(
    ("damage", "words", "code"),
    [
        ("index.duckdb", ("query", "select 1"), 5),
        ("runs/*/run.json", ("cache", "verify"), 5),
        ("runs/*/rows/00000.parquet", ("cache", "verify"), 5),
        ("runs/*/g0001/zarr.json", ("fit", "mean-shift", "--concept", "counting"), 5),
        ("vectors/*.safetensors", ("vectors", "show", "counting"), 5),
        ("runs/*/CURRENT", ("fit", "mean-shift", "--concept", "counting"), 5),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_damaged_file_of_a_cache_is_class_5(
    damage: str, words: tuple[str, ...], code: int, work: Path, terminal: Terminal
) -> None:
    for path in (work / "cache").glob(damage):
        path.write_bytes(b"\x00garbage\xff" * 50)
    assert terminal(*words) == code, terminal.err
    assert code == 0 or "\ntry: " in terminal.err


def test_a_root_that_is_no_cache_is_class_4_or_2(work: Path, terminal: Terminal) -> None:
    (work / "file").write_text("x")
    assert terminal("query", "select 1", "--root", "nowhere") == 4
    assert terminal("query", "select 1", "--root", "file") == 2


def test_a_full_disk_is_class_8() -> None:
    said = io_error(duckdb.IOException('IO Error: Could not write file "/x": No space left on device'), place=Path("x"))
    assert said is not None
    assert said.exit_code == 8
