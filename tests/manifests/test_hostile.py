"""Whatever stands in a file, reading it gives a document or a ManifestError: no traceback, no code run, bounded time."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steercache.core.errors import ManifestError, NotFoundError
from steercache.manifests.documents import KINDS, Manifest
from steercache.manifests.load import find_manifest, load_manifest, parse_manifest, read_manifest
from steercache.manifests.problems import MAX_PROBLEMS, field_places
from steercache.manifests.resolve import resolve_trace

VALID = [path.read_text() for path in sorted((Path(__file__).parent / "valid").glob("*.yaml"))]
WORDS = sorted(
    {name for document in KINDS.values() for name in field_places(document)} | {*KINDS, "hub", "jsonl", "all"}
)
FAST = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=12),
    st.dates(),
    st.binary(max_size=8),
)
keys = st.one_of(st.sampled_from(WORDS), st.text(max_size=8), st.integers(), st.none())
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)


def outcome(text: str) -> Manifest | ManifestError:
    """The document, or the one error that may come instead; any other is the test's failure."""
    try:
        return parse_manifest(text, file="fuzz.yaml")
    except ManifestError as refusal:
        return refusal


def read_or_refuse(text: str) -> None:
    """Parse `text`: a document can be written and read again, a refusal names at least one problem."""
    found = outcome(text)
    if isinstance(found, ManifestError):
        assert found.problems
        assert all(problem.kind and problem.message and str(problem) in str(found) for problem in found.problems)
    else:
        assert parse_manifest(json.dumps(found.model_dump(mode="json")), file="again") == found


@FAST
@given(trees)
def test_random_trees_of_our_own_words_never_give_a_traceback(tree: Any) -> None:
    read_or_refuse(yaml.safe_dump(tree, allow_unicode=True))


@FAST
@given(st.sampled_from(sorted(KINDS)), st.dictionaries(st.sampled_from(WORDS), trees, max_size=6))
def test_random_fields_of_a_known_kind_never_give_a_traceback(kind: str, fields: dict[str, Any]) -> None:
    read_or_refuse(yaml.safe_dump({**fields, "kind": kind, "version": 1}))


@FAST
@given(st.text(max_size=200))
def test_random_text_never_gives_a_traceback(text: str) -> None:
    read_or_refuse(text)


@FAST
@given(st.data())
def test_valid_documents_with_characters_changed_never_give_a_traceback(data: st.DataObject) -> None:
    text = list(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        width = data.draw(st.integers(0, 6))
        text[at : at + width] = data.draw(st.text(alphabet="&*!|>%@`{}[]:,-?#'\"\\\n\t 019.eE~ax", max_size=3))
    read_or_refuse("".join(text))


@FAST
@given(st.data())
def test_valid_documents_with_a_value_changed_never_give_a_traceback(data: st.DataObject) -> None:
    tree = yaml.safe_load(data.draw(st.sampled_from(VALID)))
    holder = tree
    while True:
        at = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        inner = holder[at]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        holder = inner
    holder[at] = data.draw(trees)
    read_or_refuse(yaml.safe_dump(tree))


def test_json_says_characters_beyond_the_first_plane_in_two_escapes() -> None:
    tree = {"kind": "dataset", "version": 1, "name": "d", "source": {"type": "text", "path": "\U0001f600.txt"}}
    for written in (json.dumps(tree), json.dumps(tree, ensure_ascii=False), yaml.safe_dump(tree)):
        assert outcome(written).model_dump()["source"]["path"] == "\U0001f600.txt"  # type: ignore[union-attr]
    halved = json.dumps(tree).replace("\\ude00", "")
    assert [p.kind for p in outcome(halved).problems] == ["encoding"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("kind: model\nnames: [" + "1," * 100_000 + "1]\n", "too_large"),
        ("kind: model\nname: " + "x" * 300_000 + "\n", "too_large"),
        ("[" * 100_000, "too_deep"),
        ("- " * 50_000, "too_deep"),
        ("{a: " * 50_000, "too_deep"),
        ("a: &a [" + "x," * 150 + "x]\nb: [" + "*a," * 40_000 + "*a]\n", "alias"),
        ("? " * 50_000, "too_deep"),
        ("'" + "a" * 200_000, "syntax"),
        ("kind: " + "9" * 200_000, "range"),
        ("%YAML 9.9\n---\nkind: model\n", "syntax"),
        ("%TAG ! tag:yaml.org,2002:python/\n---\n!name:os.system x\n", "tag"),
    ],
)
def test_documents_made_to_exhaust_a_reader_are_refused_quickly(text: str, kind: str) -> None:
    began = time.process_time()
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, file="bomb.yaml")
    assert time.process_time() - began < 10
    assert kind in {problem.kind for problem in caught.value.problems}


def test_thousands_of_problems_are_counted_and_the_first_hundred_shown() -> None:
    fields = "".join(f"field{i}: 1\n" for i in range(3000))
    with pytest.raises(ManifestError) as caught:
        parse_manifest(f"kind: trace\nversion: 1\nname: t\nmodel: m\ndatasets: [d]\n{fields}", file="many.yaml")
    *shown, last = caught.value.problems
    assert len(shown) == MAX_PROBLEMS
    assert last.message == f"and {3000 - MAX_PROBLEMS} problems more"


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "sparse.yaml"
    with path.open("wb") as stream:
        stream.truncate(50 * 2**30)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert [problem.kind for problem in caught.value.problems] == ["too_large"]


def test_a_pipe_or_a_folder_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("pipe.yaml", "folder.yaml", "absent.yaml"):
        with pytest.raises(NotFoundError):
            load_manifest(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["../models/smollm2-135m", "..", "a\0b", "a\0/b", "", "smollm2-135m.yaml", "x" * 5000, "x" * 5000 + "/y"]
)
def test_a_name_is_looked_up_and_never_joined_into_a_path(name: str) -> None:
    with pytest.raises(NotFoundError):
        find_manifest(name)


def test_a_trace_that_names_a_document_by_a_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("kind: model\nversion: 1\nname: secret\nsource: {type: hub, id: a/b}\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    trace = inner / "t.yaml"
    trace.write_text("kind: trace\nversion: 1\nname: t\nmodel: ../secret\ndatasets: [concepts]\n")
    with pytest.raises(ManifestError) as caught:
        resolve_trace(trace)
    assert [(p.loc, p.kind) for p in caught.value.problems] == [("model", "pattern")]
