"""The hub's library: local folders of either layout, without the network; what is missing is said."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steercache.core.errors import ManifestError, MissingExtraError, NotFoundError, Problem
from steercache.core.examples import Example
from steercache.data.rows import Row
from steercache.data.sources import SOURCES
from steercache.manifests.dataset import Columns, DatasetManifest, HfSource
from tests.data.tables import dataset, inputs_and_labels, write_jsonl, write_parquet

datasets.disable_progress_bars()

ROWS = [{"s": f"Number {i} is on the list.", "w": "on", "c": "spatial_relationship"} for i in range(7)]
COLUMNS = {"text": "s", "anchor": "w", "concept": "c"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A local folder must be read without asking anybody; the library's own cache goes to a temporary place."""

    def refuse(*words: Any, **named: Any) -> Any:
        raise AssertionError(f"asked the network: {words}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


@pytest.fixture
def expected(tmp_path: Path) -> list[tuple[Any, ...]]:
    write_jsonl(tmp_path / "plain.jsonl", ROWS)
    return inputs_and_labels(dataset(tmp_path, {"type": "jsonl", "path": "plain.jsonl", "columns": COLUMNS}))


def hf(tmp_path: Path, **source: Any) -> Any:
    return dataset(tmp_path, {"type": "hf", "path": "folder", "columns": COLUMNS, **source})


def test_a_folder_of_save_to_disk_reads_as_its_rows(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "folder")
    assert inputs_and_labels(hf(tmp_path)) == expected


def test_a_split_of_a_saved_dict_is_chosen_by_name(tmp_path: Path, expected: list[tuple[Any, ...]]) -> None:
    train, test = datasets.Dataset.from_list(ROWS[:1]), datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "folder")
    assert inputs_and_labels(hf(tmp_path, split="test")) == expected
    with pytest.raises(NotFoundError, match="no split 'dev'; there are: train, test"):
        list(hf(tmp_path, split="dev"))


@pytest.mark.parametrize(("saved", "fits"), [("test", "test"), ("train", "train"), (None, "train")])
def test_one_saved_data_set_is_read_as_the_split_that_it_is_and_as_no_other(
    tmp_path: Path, expected: list[tuple[Any, ...]], saved: str | None, fits: str
) -> None:
    split = None if saved is None else datasets.NamedSplit(saved)
    datasets.Dataset.from_list(ROWS, split=split).save_to_disk(tmp_path / "folder")
    assert inputs_and_labels(hf(tmp_path)) == expected
    assert inputs_and_labels(hf(tmp_path, split=fits)) == expected
    for other in {"train", "test", "dev"} - {fits}:
        with pytest.raises(NotFoundError, match=f"no split '{other}': this is one data set") as caught:
            list(hf(tmp_path, split=other))
        assert caught.value.hint == "leave `split` out to read it as it is"


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_folder_of_the_hubs_layout_reads_as_its_rows(
    tmp_path: Path, expected: list[tuple[Any, ...]], suffix: str
) -> None:
    (tmp_path / "folder" / "data").mkdir(parents=True)
    write = {"parquet": write_parquet, "jsonl": write_jsonl}[suffix]
    write(tmp_path / "folder" / "data" / f"train-00000-of-00002.{suffix}", ROWS[:4])
    write(tmp_path / "folder" / "data" / f"train-00001-of-00002.{suffix}", ROWS[4:])
    write(tmp_path / "folder" / "data" / f"test-00000-of-00001.{suffix}", ROWS[:1])
    found = hf(tmp_path)
    assert inputs_and_labels(found) == expected
    assert [example.place for example in found][:2] == ["folder[train]:1", "folder[train]:2"]
    assert hf(tmp_path, split="test").check() == 1


def test_a_configuration_is_chosen_by_the_card_of_the_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        write_parquet(tmp_path / "folder" / name / "test.parquet", ROWS[: {"one": 1, "two": 2}[name]])
    card = "---\nconfigs:\n"
    for name in ("one", "two"):
        card += f"- {{config_name: {name}, data_files: [{{split: test, path: {name}/*}}]}}\n"
    (tmp_path / "folder" / "README.md").write_text(f"{card}---\n")
    assert [hf(tmp_path, config=name, split="test").check() for name in ("one", "two")] == [1, 2]


def test_pictures_are_not_decoded_and_come_as_their_bytes(tmp_path: Path) -> None:
    rows = [{"s": "A picture.", "image": {"bytes": b"not a picture at all", "path": "x.png"}}]
    table = datasets.Dataset.from_list(
        rows, features=datasets.Features({"s": datasets.Value("string"), "image": datasets.Image()})
    )
    table.save_to_disk(tmp_path / "folder")
    (example,) = hf(tmp_path, columns={"text": "s", "image": "image"})
    assert [(image.name, image.load()) for image in example.images] == [("x.png", b"not a picture at all")]


def test_a_picture_of_a_hub_data_set_must_come_with_its_bytes(tmp_path: Path) -> None:
    """Its paths are its own machine's: they name no file of ours."""
    (tmp_path / "a.png").write_bytes(b"mine")
    source = HfSource(type="hf", id="owner/name", columns=Columns(text="s", image="i"))
    manifest = DatasetManifest(kind="dataset", version=1, name="d", source=source)
    read = SOURCES["hf"](manifest, source, tmp_path).read
    (problem,) = read(Row(file="owner/name", line=1, values={"s": "x", "i": {"bytes": None, "path": "a.png"}}))
    assert isinstance(problem, Problem)
    assert problem.kind == "image"
    (example,) = read(Row(file="owner/name", line=2, values={"s": "x", "i": {"bytes": b"its own", "path": "a.png"}}))
    assert isinstance(example, Example)
    assert example.images[0].load() == b"its own"


def test_a_missing_column_and_a_bad_row_are_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list([*ROWS, {"s": "x", "w": "on", "c": ""}]).save_to_disk(tmp_path / "folder")
    with pytest.raises(ManifestError) as caught:
        list(hf(tmp_path))
    assert [(p.file, p.line, p.loc, p.kind) for p in caught.value.problems] == [
        ("folder[train]", 8, "w", "anchor_missing")
    ]
    with pytest.raises(ManifestError, match="no such column; there are: s, w, c"):
        list(hf(tmp_path, columns={"text": "sentence"}))


def test_folders_that_are_none_or_damaged_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(NotFoundError, match="cannot be opened"):
        list(hf(tmp_path))
    (folder / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises((NotFoundError, ManifestError)):
        list(hf(tmp_path))
    (folder / "train.parquet").unlink()
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)
    (folder / "state.json").write_text("{}")
    with pytest.raises(NotFoundError, match="cannot be opened"):
        list(hf(tmp_path))


def test_text_that_is_not_utf8_is_named_by_row(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"s": text}), tmp_path / "folder" / "train.parquet")
    with pytest.raises(ManifestError) as caught:
        list(hf(tmp_path, columns={"text": "s"}))
    assert [(p.line, p.loc, p.kind) for p in caught.value.problems] == [(2, "s", "encoding")]


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "folder.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(NotFoundError, match="scripts are no longer supported"):
        list(hf(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steercache\[data\]'"):
        list(hf(tmp_path))


def test_a_set_of_the_hub_that_cannot_be_reached_says_how_to_bring_it(tmp_path: Path) -> None:
    source = {"type": "hf", "id": "owner/sentences", "split": "train", "columns": COLUMNS}
    with pytest.raises(NotFoundError, match="cannot be opened") as caught:
        list(dataset(tmp_path, source))
    assert caught.value.place == "owner/sentences[train]"
    assert "hf download owner/sentences --repo-type dataset" in str(caught.value.hint)
