"""Inputs as one stream: in order, from any point, and read no more often than needed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from steercache.core.examples import Example
from steercache.manifests.load import parse_manifest
from steercache.manifests.model import ModelManifest
from steercache.models.load import load_bundle
from steercache.models.spec import TokenizerBundle
from steercache.runs.inputs import InputStream, NamedDataset
from tests.tiny import sentences, write_tiny_model


class Counted:
    """Examples that count how many of them were read."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.n_read = texts, 0

    def __iter__(self) -> Iterator[Example]:
        for text in self.texts:
            self.n_read += 1
            yield Example(dataset="counted", text=text, place=text)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> TokenizerBundle:
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    text = f"kind: model\nversion: 1\nname: tiny\nsource: {{type: path, folder: {folder}}}\n"
    manifest = parse_manifest(text, file="tiny.yaml")
    assert isinstance(manifest, ModelManifest)
    return load_bundle(manifest, cache_dir=folder.parent, base_dir=Path(), dtype="auto")


def test_samples_are_taken_from_any_point_in_order_over_all_data_sets(bundle: TokenizerBundle) -> None:
    first, second = Counted(sentences(10)), Counted(sentences(7, seed=1))
    datasets = [NamedDataset(name="first", examples=first), NamedDataset(name="second", examples=second)]
    stream = InputStream(datasets, bundle, max_tokens=None)
    for start, n in ((0, 3), (3, 4), (8, 5), (2, 2), (15, 9)):
        taken = stream.take(start, n)
        wanted = list(range(start, min(start + n, 17)))
        assert [s.sample_idx for s in taken] == wanted
        assert [s.ordinal for s in taken] == [i if i < 10 else i - 10 for i in wanted]
        assert [s.example.text for s in taken] == [(first.texts + second.texts)[i] for i in wanted]


def test_a_worker_that_takes_every_other_shard_reads_the_data_once(bundle: TokenizerBundle) -> None:
    data = Counted(sentences(40))
    stream = InputStream([NamedDataset(name="data", examples=data)], bundle, max_tokens=None)
    for start in range(0, 40, 8):
        assert len(stream.take(start, 4)) == 4
    assert data.n_read <= 40
