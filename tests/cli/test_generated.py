"""Whatever is fed in, through the program's own entry: an exit code of a class, one message, no traceback, no bug."""

import contextlib
import copy
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steercache.cli.main import run
from tests.quick import costly

OUR_BUG = 1
# A few in every run; `test_fuzz` (slow) has hundreds.
many = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["all", "auto", "last", "resid_pre", "roles", "tiny", "..", "/", "words.jsonl", "\x00", "1e-3", "no"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["layers", "rows", "sites", "dtype", "max_tokens", "shard_mib", "rows_per_shard", "chunk_rows", "numerics"]
PIECES = [
    *(
        "select",
        "from",
        "where",
        "group by",
        "order by",
        "limit",
        "with",
        "as",
        "join",
        "on",
        "union",
        "cast",
        "insert",
    ),
    *("tokens", "samples", "runs", "vectors", "nobody", "sites", "information_schema.tables", "duckdb_settings()"),
    *(
        "run_id",
        "row_idx",
        "piece",
        "count(*)",
        "sum(row_idx)",
        "'x'",
        "1",
        "0",
        "-1",
        "null",
        "$p",
        "?",
        "*",
        "(",
        ")",
    ),
    *(",", ";", "--", "/*", "=", "::int", "::json", "[1]", "{'a': 1}", "activation(run_id, 'resid_post', 0, row_idx)"),
    *("vector('counting', 1)", "read_csv('/etc/passwd')", "getenv('HOME')", "pragma", "attach 'x'", "copy", "1e999"),
    *(
        "list_cosine_similarity",
        "unnest",
        "lambda x: x",
        "'\x00'",
        "\u200b",
        "é",
        "install",
        "set",
        "explain",
        "over ()",
    ),
]
BEGINNINGS = [  # so that some get past the parser
    "",
    "select * from tokens",
    "select run_id, row_idx from tokens where row_idx < 3 and",
    "select activation(run_id, 'resid_post', 1, row_idx) from tokens limit",
    "select 1,",
    "with t as (select * from samples) select * from t",
    "select vector(vector_id, 1) from vectors where",
    "from runs select",
]


def outcome(*words: str) -> tuple[int, str]:
    """Exit code and messages of one command line."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(words)
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return code, err.getvalue()


def assert_no_bug(code: int, message: str) -> None:
    assert code != OUR_BUG, message
    assert code == 0 or "\ntry: " in message, message


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in inside for place in places(inner, (*path, key)))][0 if path else 1 :]


@st.composite
def changed(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """`document` with a few values replaced, removed or added."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(made) or [("name",)]))
        inside = made
        for key in path:
            inside = inside[key]
        if draw(st.booleans()):
            inside[last] = draw(VALUES)
        elif draw(st.booleans()):
            made[draw(st.sampled_from(KEYS))] = draw(VALUES)
        else:
            del inside[last]
    return made


@pytest.fixture(scope="module")
def folder(built_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: a generated name may be the beginning of a run's id, and the run is compacted then."""
    return Path(shutil.copytree(built_once, tmp_path_factory.mktemp("generated") / "work"))


@many
@given(data=st.data())
def test_a_trace_manifest_that_was_changed_anywhere_is_planned_or_refused(data: st.DataObject, folder: Path) -> None:
    document = data.draw(changed(yaml.safe_load((folder / "my-trace.yaml").read_text())))
    path = folder / "changed.yaml"
    path.write_bytes(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))
    assert_no_bug(*outcome("plan", str(path), "--root", str(folder / "nowhere")))


@many
@given(text=st.one_of(st.text(), st.binary().map(lambda b: b.decode("latin-1"))))
@example(text="&a [*a, *a]")
@example(text="a: " * 3000)
@example(text="!!python/object/apply:os.system [ls]")
def test_any_text_as_a_manifest_is_refused(text: str, folder: Path) -> None:
    path = folder / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    code, message = outcome("manifest", "check", str(path))
    assert_no_bug(code, message)
    assert code == 3


@costly(5)
@many
@given(begin=st.sampled_from(BEGINNINGS), pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=10))
def test_sql_made_of_pieces_is_answered_or_refused(begin: str, pieces: list[str], folder: Path) -> None:
    assert_no_bug(*outcome(*query(" ".join([begin, *pieces]), folder)))


@costly(5)
@many
@given(text=st.text(min_size=1, max_size=60).map(lambda text: text.lstrip("-")))
def test_any_text_as_sql_is_answered_or_refused(text: str, folder: Path) -> None:
    assert_no_bug(*outcome(*query(text, folder)))


@costly(5)
@many
@given(
    name=st.sampled_from(["anchor_tokens", "token_frequency", "every_nth", "vector_norms", "projection_by_token"]),
    bindings=st.dictionaries(
        st.sampled_from(["concept", "run", "top", "nth", "vector", "layer", "split"]), st.text(max_size=8), max_size=4
    ),
)
def test_any_bindings_of_a_named_query_are_answered_or_refused(
    name: str, bindings: dict[str, str], folder: Path
) -> None:
    words = [word for key, value in bindings.items() for word in ("-p", f"{key}={value}")]
    assert_no_bug(*outcome("query", *words, *query(name, folder)[1:]))


@costly(5)
@many
@given(
    option=st.sampled_from(
        ["--layer", "--concept", "--run", "--site", "--query", "--name", "-p", "--recipe", "--seed"]
    ),
    value=st.text(max_size=10),
)
def test_any_option_of_a_fit_is_taken_or_refused(option: str, value: str, folder: Path) -> None:
    words = ["fit", "probe", "--run", "nobody", "--concept", "counting", "--root", str(folder / "cache")]
    code, message = outcome(*words, f"{option}={value}")
    assert_no_bug(code, message)


@costly(5)
@many
@given(wanted=st.text(max_size=70))
def test_any_name_of_a_run_or_vector_is_found_or_refused(wanted: str, folder: Path) -> None:
    root = ("--root", str(folder / "cache"))
    for words in (("vectors", "show"), ("vectors", "refit"), ("cache", "verify"), ("cache", "compact")):
        assert_no_bug(*outcome(*words, *root, "--", wanted))


def query(text: str, folder: Path) -> list[str]:
    limits = ["--time-limit", "5", "--memory-limit", "256", "--limit", "20"]
    return [
        "query",
        "--root",
        str(folder / "cache"),
        *limits,
        "--format",
        "csv",
        "-o",
        str(folder / "out.csv"),
        "--",
        text,
    ]
