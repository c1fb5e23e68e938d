"""What the documents show can be typed: commands, Python, SQL and manifests, with the names and options they use."""

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import steercache
from steercache.data.benchmarks import BENCHMARKS
from steercache.data.benchmarks.own_rows import NAMES
from steercache.manifests.load import find_manifest, parse_manifest
from steercache.queries.library import load_library
from tests.cli.test_hints import mentioned, wrong_call, wrong_words
from tests.docs.blocks import BLOCKS, DOCUMENTS, REPOSITORY, Block, blocks_of, command_lines, in_language

pytest.importorskip("torch", reason="the signatures that the examples are held to need it")

COMMAND_LINES = command_lines()
PYTHON = in_language("python")
KINDS = {"build": "trace", "grid": "sweep", "screen": "sweep"}
FILES = (".csv", ".jsonl", ".parquet", ".txt", ".yaml")
OBJECTS = {  # what the names of the examples stand for
    "cache": steercache.Cache,
    "sweep": steercache.Sweep,
    "sel": steercache.Selection,
    "selection": steercache.Selection,
    "vec": steercache.SteeringVector,
    "vector": steercache.SteeringVector,
    "run": steercache.Run,
}


def test_there_are_blocks_of_every_kind() -> None:
    assert {block.language for block in BLOCKS} <= {"console", "python", "sql", "yaml", "json", "text"}
    assert len(COMMAND_LINES) > 40
    assert len(PYTHON) > 8


@pytest.mark.parametrize(("place", "line"), COMMAND_LINES)
def test_a_command_exists_with_its_options_and_what_it_names_ships(place: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (REPOSITORY / "Makefile").read_text(), place
    elif words[0] == "pip":
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [one for word in words for one in re.findall(r"steercache\[([a-z,]+)\]", word)]
        assert {one for extra in named for one in extra.split(",")} <= set(extras), place
    elif words[0] == "steercache":
        problem = wrong_call(line.removeprefix("steercache "))
        assert problem is None, (place, problem)
        names_what_ships(words[1:])


def names_what_ships(words: list[str]) -> None:
    command, *rest = words
    if command in ("plan", *KINDS) and not rest[0].endswith(FILES):
        of_benchmark = command == "screen" and len(rest) > 1 and not rest[1].startswith("-")
        kind = "model" if of_benchmark else KINDS.get(command)
        assert find_manifest(rest[0], kind=kind)  # type: ignore[arg-type]
    if command == "query" and " " not in rest[0]:
        assert rest[0] in load_library()
    if command == "eval" and not rest[1].endswith(FILES):
        benchmark = BENCHMARKS[rest[1]]
        assert "--task" not in rest or rest[rest.index("--task") + 1] in benchmark.tasks
    if "--model" in rest:
        assert find_manifest(rest[rest.index("--model") + 1], kind="model")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_command_named_in_prose_exists_with_its_options(path: Path) -> None:
    lines = list(mentioned(path.read_text(encoding="utf-8")))
    assert [f"steercache {line}: {wrong_words(line)}" for line in lines if wrong_words(line)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_between_documents_leads_to_a_file(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
    generated = ("api", "commands", "tables", "queries", "manifests", "errors")
    made = {(REPOSITORY / "docs" / "reference" / f"{name}.md").resolve() for name in generated}
    made |= {REPOSITORY / "docs" / "models.md"} | {
        (REPOSITORY / "docs" / "examples" / f"{p.stem}.md") for p in (REPOSITORY / "docs/examples").glob("*.ipynb")
    }
    resolved = [(path.parent / target).resolve() for target in targets]
    assert [str(one) for one in resolved if not one.exists() and one not in made] == []


def calls_of(tree: ast.Module) -> Iterator[tuple[ast.expr, Any, ast.Call | None]]:
    """(expression, the object of the package that it names, the call of it if it is called)."""
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node).split(".")
            if all(part.isidentifier() for part in dotted) and dotted[0] in {"steercache", *OBJECTS}:
                found: Any = steercache if dotted[0] == "steercache" else OBJECTS[dotted[0]]
                for part in dotted[1:]:
                    fields = getattr(found, "__dataclass_fields__", {})
                    found = fields[part] if part in fields else getattr(found, part)  # AttributeError: no such name
                yield node, found, called.get(id(node))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_uses_names_that_exist_and_calls_them_with_arguments_that_they_take(block: Block) -> None:
    tree = ast.parse(block.text)
    for node, found, call in calls_of(tree):
        if call is None:
            continue
        signature = inspect.signature(found)
        given: list[object] = [None] * len(call.args)
        if not isinstance(found, type) and "self" in signature.parameters:
            given.insert(0, None)
        try:
            signature.bind(*given, **{str(keyword.arg): None for keyword in call.keywords})
        except TypeError as error:
            pytest.fail(f"{block.place}: {ast.unparse(node)}: {error}")
        first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if isinstance(first, str):
            names_a_thing_that_ships(node.attr, first)  # type: ignore[attr-defined]


def names_a_thing_that_ships(method: str, name: str) -> None:
    if method in ("select", "query") and " " not in name:
        assert name in load_library()
    if method in ("build", "plan") and not name.endswith(FILES):
        assert find_manifest(name, kind="trace")
    if method == "sweep":
        assert find_manifest(name, kind="sweep")
    if method in ("load", "pairs", "evaluate", "model"):
        assert find_manifest(name, kind="model")


def statements() -> list[tuple[str, str]]:
    """(place, SQL) of every statement: SQL blocks, what Python passes to `sql` and `select`, and what the command line runs."""
    found = [(block.place, block.text) for block in in_language("sql")]
    for block in PYTHON:
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                text = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
                if node.func.attr in ("sql", "select", "query") and " " in str(text):
                    found.append((block.place, str(text)))
    for place, line in COMMAND_LINES:
        words = shlex.split(line, comments=True)
        if words[:2] == ["steercache", "query"] and " " in words[2]:
            found.append((place, words[2]))
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> steercache.Cache:
    return steercache.open(tmp_path_factory.mktemp("docs") / "cache", create=True)


@pytest.mark.parametrize(("place", "sql"), statements())
def test_sql_runs_against_an_empty_cache(place: str, sql: str, empty: steercache.Cache) -> None:
    labels = pd.DataFrame({"sample_idx": [0], "tone": ["warm"]})
    tables = {"labels": labels} if "labels" in sql else None
    bindings = dict.fromkeys(re.findall(r"\$(\w+)", sql), "none")
    assert empty.sql(sql, tables=tables, **bindings).fetchall() is not None, place


@pytest.mark.parametrize("block", in_language("yaml"), ids=str)
def test_a_manifest_is_valid_and_names_what_ships(block: Block) -> None:
    manifest = parse_manifest(block.text, file=block.place)
    assert manifest.kind == yaml.safe_load(block.text)["kind"]
    model = getattr(manifest, "model", None)
    assert model is None or find_manifest(str(model), kind="model")


def test_columns_of_a_question_file_are_those_that_are_read() -> None:
    page = (REPOSITORY / "docs/how-to/own-benchmark.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, re.MULTILINE)
    assert {name: {name, *re.findall(r"`(\w+)`", others)} for name, others in rows} == {
        meaning: set(names) for meaning, names in NAMES.items()
    }
    (example,) = in_language("json")
    assert set(json.loads(example.text)) <= set(NAMES)


@pytest.mark.parametrize(
    ("python", "problem"),
    [
        ("steercache.nothing()", AttributeError),
        ("cache.nothing()", AttributeError),
        ("cache.build('tiny-concepts', modle='x')", pytest.fail.Exception),
        ("steercache.steer(model, vec, 12)", pytest.fail.Exception),
        ("cache.sweep('no-such-sweep')", Exception),
    ],
)
def test_a_name_or_keyword_that_does_not_exist_would_be_found(python: str, problem: type[BaseException]) -> None:
    with pytest.raises(problem):
        test_python_uses_names_that_exist_and_calls_them_with_arguments_that_they_take(
            Block(place="here", language="python", text=python)
        )


@pytest.mark.slow
def test_the_notebook_of_the_readme_is_typed(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(next(block.text for block in PYTHON if block.place.startswith("README.md")))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path), str(snippet)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "")


# The first three take minutes on the demo model (tests/sweeps run them on small ones); the fourth names a run that is not here.
# Those with an SAE need weights that are not here (tests/sae, tests/screening and tests/sweeps make small ones).
OF_SAES = ("load_sae(", 'cache.fit("sae"', "cache.screen_features(", "cache.feature_vector(")
# What another engine wrote, and other people's evaluations, are in tests/exchange and tests/evals.
OTHERS = ("hf://", "cache.import_activations(", "lm_eval", "lmms_eval")
SKIPPED = (*OTHERS, "cache.evaluate(", "cache.screen(", "cache.sweep(", "zarr.open_group(", *OF_SAES)


def things_at_hand(cache: steercache.Cache) -> dict[str, Any]:
    """What a page takes for granted: a transformers model, its inputs, and vectors."""
    loaded = steercache.load("tiny-backbone")
    values = np.random.default_rng(0).normal(size=(1, loaded.spec.hidden_size)).astype(np.float32)
    vector = replace(cache.vector("counting"), fitted_on=None, layers=(2,), values=values)
    other = replace(vector, name="second", values=np.roll(values, 1, axis=1))
    inputs = loaded.tokenizer("The cat sat", return_tensors="pt")
    return {"model": loaded.model, "vector": vector, "first": vector, "second": other, "inputs": inputs}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in DOCUMENTS if "```python" in p.read_text(encoding="utf-8")], ids=lambda p: p.name
)
def test_the_python_of_a_page_runs_from_top_to_bottom_on_a_small_model(
    path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEERCACHE_ROOT", raising=False)
    (work / "certainty.csv").write_text("text,anchor,concept\nThis is surely so.,surely,certainty\n")
    (work / "my-queries").mkdir()
    namespace: dict[str, Any] = {"steercache": steercache, "pd": pd, "cache": steercache.open("cache")}
    for block in blocks_of(path):
        if block.language == "python" and not any(word in block.text for word in SKIPPED):
            text = block.text.replace("smollm2-135m", "tiny-backbone").replace(
                "n_rows=200_000", "n_rows=2_000, batch_size=64"
            )
            text = re.sub(r"layer=1[0-9]", "layer=2", text)
            text = text.replace("layers=[10, 11, 12]", "layers=[1, 2]").replace("[12]", "[2]").replace("(12,)", "(2,)")
            if re.search(r"\bvector\b", text) and "vector" not in namespace:
                namespace |= things_at_hand(namespace["cache"])
            exec(compile(text, block.place, "exec"), namespace)
