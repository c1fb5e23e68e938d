"""Every document of `valid/` and `invalid/` is read as its own header or sidecar says."""

import json
from pathlib import Path

import jsonschema
import pytest

from steercache.core.errors import ManifestError
from steercache.manifests.load import parse_manifest, read_manifest
from steercache.manifests.schema import json_schema
from steercache.manifests.tree import read_tree

HERE = Path(__file__).parent
VALID = sorted((HERE / "valid").glob("*.yaml"))
INVALID = sorted((HERE / "invalid").glob("*.yaml"))
SHAPE_KINDS = {"missing", "unknown_field", "choice", "type", "range", "length", "pattern"}  # a schema can say these


def expected_problems(path: Path) -> list[tuple[str, str, str]]:
    """The (line, place, kind) of the `# expect:` lines at the head of a file; `-` for none."""
    lines = path.read_bytes().split(b"\n")
    return sorted(tuple(line.decode().split()[2:]) for line in lines if line.startswith(b"# expect: "))  # type: ignore[misc]


def test_there_are_enough_invalid_documents() -> None:
    assert len(INVALID) >= 40


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_document_gives_exactly_the_problems_it_announces(path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    found = sorted((str(p.line or "-"), p.loc or "-", p.kind) for p in caught.value.problems)
    assert found == expected_problems(path)
    assert all(p.file == str(path) and p.message for p in caught.value.problems)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_document_is_read_as_its_sidecar_says(path: Path) -> None:
    document = read_manifest(path)
    assert document.model_dump(mode="json") == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_what_was_read_and_written_again_is_the_same_document(path: Path) -> None:
    document = read_manifest(path)
    again = parse_manifest(json.dumps(document.model_dump(mode="json")), file="again")
    assert again == document


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_the_schema_accepts_what_loading_accepts(path: Path) -> None:
    value = read_tree(path.read_text(), file=path.name).value
    jsonschema.Draft202012Validator(json_schema(value["kind"])).validate(value)


def wrong_by_shape_alone(path: Path) -> bool:
    """Whether a schema can see what is wrong: nothing in the YAML itself, and no rule between two fields."""
    kinds = {kind for _, _, kind in expected_problems(path)}
    of_a_kind = path.name.startswith(("model-", "dataset-", "trace-", "sweep-", "sae-"))
    between = (
        *("trace-layers-backwards", "trace-shard-of-half-chunks", "sweep-layers-backwards", "sweep-alpha-zero"),
        *("model-quantized-otherwise", "sweep-without-alphas", "sweep-combination-part-of-nothing"),
    )
    return of_a_kind and kinds <= SHAPE_KINDS and path.stem not in between


@pytest.mark.parametrize("path", [path for path in INVALID if wrong_by_shape_alone(path)], ids=lambda path: path.stem)
def test_the_schema_refuses_what_is_wrong_by_its_shape(path: Path) -> None:
    value = read_tree(path.read_text(), file=path.name).value
    assert not jsonschema.Draft202012Validator(json_schema(value["kind"])).is_valid(value)


def test_a_field_that_stands_in_the_wrong_mapping_is_sent_to_the_right_one() -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(HERE / "invalid" / "trace-field-of-its-data-set.yaml")
    (problem,) = caught.value.problems
    assert problem.message == "is not a field here; it belongs in `datasets`"
    text = "kind: dataset\nversion: 1\nname: d\nsource: {type: text, path: t.txt, limit: 4}\n"
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, file="d.yaml")
    assert {p.loc: p.message for p in caught.value.problems} == {
        "source.limit": "is not a field here; it belongs in the document itself",
    }
