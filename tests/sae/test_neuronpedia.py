"""Exports of Neuronpedia in every layout it has: a list, lines, gzipped, whole features of its API."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from steercache.core.errors import NotFoundError, UsageError
from steercache.core.saes import SaeSpec
from steercache.sae.neuronpedia import read_neuronpedia

SOURCE = {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k"}


def spec(**changes: Any) -> SaeSpec:
    known = {
        "sae_id": "a" * 64, "name": "scope", "source": {}, "architecture": "jumprelu", "d_in": 4, "d_sae": 100,
        "model_name": "gemma-2-2b", "site": "resid_post", "layer": 20, "prepend_bos": True,
        "neuronpedia_id": "gemma-2-2b/20-gemmascope-res-16k",
    }  # fmt: skip
    return SaeSpec(**(known | changes))


def explanation(feature: int, text: str, **changes: Any) -> dict[str, Any]:
    return {**SOURCE, "index": str(feature), "description": text, "explanationModelName": "m", **changes}


def activation(feature: int, values: list[float], **changes: Any) -> dict[str, Any]:
    return {**SOURCE, "index": str(feature), "tokens": ["<bos>", "▁two", "▁cats"], "values": values, **changes}


def as_lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


RECORDS = [
    explanation(7, "numbers"),
    explanation(7, "counts of things"),
    explanation(8, "cats"),
    explanation(9, "not asked for"),
    explanation(7, "another layer", layer="3-gemmascope-res-16k"),
    explanation(7, "another width", layer="20-gemmascope-res-65k"),
    activation(7, [0, 2.5, 1]),
    activation(7, [0, 2.5, 1]),
    activation(7, [0, 0, 4]),
    activation(7, [0, 0, 0]),
]


def check(path: Path) -> None:
    found = read_neuronpedia(path, spec(), [7, 8, 11])
    assert sorted(found) == [7, 8]
    seen = found[7]
    assert (seen.explanation, seen.source, seen.layer, seen.feature) == (
        "numbers; counts of things",
        "neuronpedia",
        20,
        7,
    )
    assert [(c.value, c.marked()) for c in seen.contexts] == [(4.0, "<bos> two<< cats>>"), (2.5, "<bos><< two>> cats")]
    assert (found[8].explanation, found[8].contexts) == ("cats", ())


def test_an_export_is_read_in_every_layout(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(RECORDS))
    (tmp_path / "lines.jsonl").write_bytes(as_lines(RECORDS))
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(as_lines(RECORDS)))
    for file in sorted(tmp_path.iterdir()):
        check(file)
    folder = tmp_path / "folder" / "explanations"
    folder.mkdir(parents=True)
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress(as_lines(RECORDS[:6])))
    (folder.parent / "batch-1.jsonl").write_bytes(as_lines(RECORDS[6:]))
    (folder.parent / "readme.txt").write_text("other")
    check(folder.parent)


def test_whole_features_of_the_api_are_read(tmp_path: Path) -> None:
    whole = {**SOURCE, "index": "7", "explanations": [{"description": "numbers"}, {"description": "counts of things"}],
             "activations": [{k: a[k] for k in ("tokens", "values")} for a in RECORDS[6:]]}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(whole))
    (tmp_path / "b.json").write_text(json.dumps({**SOURCE, "index": 8, "explanations": [{"description": "cats"}]}))
    check(tmp_path)


def test_without_a_neuronpedia_id_the_layer_decides_and_two_saes_of_it_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([explanation(7, "numbers"), explanation(7, "x", layer="200-res")]))
    assert read_neuronpedia(tmp_path, spec(neuronpedia_id=None), [7])[7].explanation == "numbers"
    (tmp_path / "one.json").write_text(json.dumps(RECORDS))
    with pytest.raises(UsageError, match="2 SAEs of this layer"):
        read_neuronpedia(tmp_path, spec(neuronpedia_id=None), [7])


@pytest.mark.parametrize(
    ("name", "data", "place"),
    [
        ("a.jsonl", as_lines(RECORDS[:1]) + b'{"index": \n', "a.jsonl:2"),
        ("a.json", b"[" * 100_000, "a.json"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz"),
        ("a.jsonl.gz", gzip.compress(as_lines(RECORDS))[:-9], "a.jsonl.gz"),
        ("a.jsonl", as_lines([activation(7, [1, 2])]), "a.jsonl:1"),
        ("a.jsonl", as_lines([activation(7, ["x", 0, 1])]), "a.jsonl:1"),  # type: ignore[list-item]
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(name: str, data: bytes, place: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as refused:
        read_neuronpedia(tmp_path, spec(), [7])
    assert str(refused.value.place).endswith(place)


def test_records_of_other_shapes_are_passed_over(tmp_path: Path) -> None:
    odd = [1, None, {}, {"index": True}, {**SOURCE, "index": "1e3"}, {**SOURCE, "index": "7", "description": 5},
           {**SOURCE, "index": "7", "explanations": "none", "activations": [3]}]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(odd))
    found = read_neuronpedia(tmp_path, spec(), [7])
    assert (found[7].explanation, found[7].contexts) == (None, ())


def test_no_export_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(NotFoundError, match="no export"):
            read_neuronpedia(path, spec(), [7])
