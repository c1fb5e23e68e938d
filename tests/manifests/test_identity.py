"""What decides a run's id, and what must not."""

from typing import Any

import pytest

from steercache.core.errors import UsageError
from steercache.core.ids import digest
from steercache.manifests import DatasetManifest, ModelManifest, TraceManifest, parse_manifest

TRACE: dict[str, Any] = {"kind": "trace", "version": 1, "name": "t", "model": "m", "datasets": ["d"]}
MODEL: dict[str, Any] = {"kind": "model", "version": 1, "name": "m", "source": {"type": "hub", "id": "a/b"}}
DATASET: dict[str, Any] = {"kind": "dataset", "version": 1, "name": "d", "source": {"type": "jsonl", "path": "d.jsonl"}}


def identity(document: dict[str, Any], **changed: Any) -> str:
    return digest(TraceManifest.model_validate({**document, **changed}, strict=False).identity())


@pytest.mark.parametrize(
    "changed",
    [
        {"sites": ["mlp_out"]},
        {"layers": [0, 1]},
        {"layers": {"start": 0, "stop": 5}},
        {"rows": {"policy": "last"}},
        {"rows": {"policy": "every", "every": 2}},
        {"dtype": "float32"},
        {"max_tokens": 64},
        {"rows_per_shard": 512},
        {"chunk_rows": 128},
        {"replayable": False},
        {"rows": {"policy": "pooled"}},
        {"share_prefix": True},
    ],
)
def test_what_is_kept_is_identity(changed: dict[str, Any]) -> None:
    assert identity(TRACE, **changed) != identity(TRACE)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"numerics": {"tokens_per_batch": 64, "padding_side": "left", "threads": 1}},
        {"model": "elsewhere"},
        {"datasets": ["e", "f"]},
        {"budget_gb": 1.5},
        {"share_prefix": False},
    ],
)
def test_names_and_numerics_are_not_identity(changed: dict[str, Any]) -> None:
    assert identity(TRACE, **changed) == identity(TRACE)


def test_the_order_in_which_layers_are_listed_is_not_identity() -> None:
    assert identity(TRACE, layers=[3, 1, 2]) == identity(TRACE, layers=[1, 2, 3])


def test_the_size_of_a_shard_in_bytes_does_not_count_once_its_rows_are_given() -> None:
    assert identity(TRACE, rows_per_shard=512, shard_mib=1) == identity(TRACE, rows_per_shard=512, shard_mib=2)
    assert identity(TRACE, shard_mib=1) != identity(TRACE, shard_mib=2)


def test_where_a_model_lies_and_how_it_attends_are_not_its_identity() -> None:
    here = ModelManifest.model_validate(MODEL)
    there = ModelManifest.model_validate(
        {**MODEL, "name": "x", "source": {"type": "path", "folder": "w"}, "attention": "eager", "backbone": "b"}
    )
    assert here.identity() == there.identity()
    assert here.numerics() != there.numerics()
    assert ModelManifest.model_validate({**MODEL, "dtype": "float32"}).identity() != here.identity()


def test_labels_and_places_are_not_the_identity_of_a_data_set_but_the_rendering_is() -> None:
    here = DatasetManifest.model_validate(DATASET)
    columns = {"text": "s", "anchor": "w", "concept": "c"}
    there = DatasetManifest.model_validate(
        {**DATASET, "name": "x", "source": {"type": "csv", "path": "/y/z.csv", "columns": columns}, "concept": "k"}
    )
    assert here.identity() == there.identity()
    for changed in ({"chat": {"apply": True}}, {"limit": 5}, {"limit": 5, "seed": 1}):
        assert DatasetManifest.model_validate({**DATASET, **changed}).identity() != here.identity()


def test_documents_are_frozen() -> None:
    document = parse_manifest("kind: model\nversion: 1\nname: m\nsource: {type: hub, id: a/b}\n", file="m.yaml")
    with pytest.raises(ValueError, match="frozen"):
        document.name = "n"  # type: ignore[misc]
    assert isinstance(hash(document), int)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ([4, 0], (0, 4)),
        ({"start": 1, "stop": 5, "step": 2}, (1, 3, 5)),
        ({"start": 1, "stop": 4, "step": 2}, (1, 3)),
        ({"stop": 2}, (0, 1, 2)),
    ],
)
def test_layers_come_to_block_numbers_ascending_with_stop_included(layers: Any, expected: tuple[int, ...]) -> None:
    trace = TraceManifest.model_validate({**TRACE, "layers": layers}, strict=False)
    assert trace.resolve_layers(6) == expected


def test_a_layer_that_the_model_does_not_have_is_named() -> None:
    trace = TraceManifest.model_validate({**TRACE, "layers": [2, 30]}, strict=False)
    with pytest.raises(UsageError, match=r"\[30\].*blocks 0 to 29"):
        trace.resolve_layers(30)
