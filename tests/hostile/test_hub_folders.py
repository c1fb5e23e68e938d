"""A local folder of the hub's layout, or of `save_to_disk`, that names files outside it: nothing outside is read."""

import json
import socket
from pathlib import Path
from typing import Any

import datasets
import pytest

from steercache.core.errors import ManifestError
from tests.data.tables import dataset, write_jsonl, write_parquet

datasets.disable_progress_bars()

SECRET = [{"s": "The secret."}]
OWN = [{"s": "Its own."}]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*words: Any, **named: Any) -> Any:
        raise AssertionError(f"asked the network: {words}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one row of its own; the secret lies beside it."""
    write_jsonl(tmp_path / "secret.jsonl", SECRET)
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "train.jsonl", OWN)
    return tmp_path / "folder"


def texts(tmp_path: Path, **source: Any) -> list[str]:
    return [e.text for e in dataset(tmp_path, {"type": "hf", "path": "folder", "columns": {"text": "s"}, **source})]


def card(folder: Path, configs: str) -> None:
    (folder / "README.md").write_text(f"---\nconfigs:\n- {configs}\n---\n")


DATA_FILES = [
    "config_name: default\n  data_files: {outside}/secret.jsonl",
    "config_name: default\n  data_files: ../secret.jsonl",
    "config_name: default\n  data_files: '../*.jsonl'",
    "config_name: default\n  data_files: [train.jsonl, sub/../../secret.jsonl]",
    "config_name: default\n  data_files: [{{split: train, path: '{outside}/secret.jsonl'}}]",
    "config_name: default\n  data_files: [{{split: train, path: [train.jsonl, '../secret.jsonl']}}]",
    "config_name: default\n  data_dir: ..",
    "config_name: default\n  data_dir: {outside}",
    "config_name: default\n  data_files: 'file://{outside}/secret.jsonl'",
    "config_name: default\n  data_files: https://example.com/secret.jsonl",
    "config_name: default\n  data_files: 'zip://secret.jsonl::{outside}/secret.zip'",
    "config_name: default\n  data_files: ~/secret.jsonl",
    # what PyYAML reads in another way than we do: of a field that stands twice it takes the last, and it merges
    "config_name: default\n  data_files: train.jsonl\n  data_files: ../secret.jsonl",
    "config_name: default\n  <<: {{data_files: ../secret.jsonl}}",
    "&c {{config_name: default, data_files: *c}}",
]


@pytest.mark.parametrize("config", DATA_FILES)
def test_a_card_that_names_files_outside_its_folder_is_refused(config: str, folder: Path, tmp_path: Path) -> None:
    card(folder, config.format(outside=tmp_path))
    with pytest.raises(ManifestError):
        texts(tmp_path)


@pytest.mark.parametrize("begin", ["", "\n\n  ", "\t"])
def test_a_card_is_read_as_the_hubs_library_reads_it(begin: str, folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text(
        f"{begin}---\nconfigs: [{{config_name: default, data_files: ../secret.jsonl}}]\n---\n"
    )
    with pytest.raises(ManifestError, match="leads out"):
        texts(tmp_path)


def test_the_other_card_file_is_checked_too(folder: Path, tmp_path: Path) -> None:
    (folder / ".huggingface.yaml").write_text("configs: [{config_name: default, data_files: ../secret.jsonl}]\n")
    with pytest.raises(ManifestError, match="leads out"):
        texts(tmp_path)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "train-2.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(ManifestError, match="a link leads out"):
        texts(tmp_path)


def test_a_linked_folder_is_not_entered(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_jsonl(tmp_path / "other" / "train-x.jsonl", SECRET)
    (folder / "data").symlink_to(tmp_path / "other")
    card(folder, "config_name: default\n  data_files: data/train-x.jsonl")
    with pytest.raises(ManifestError, match="a link leads out"):
        texts(tmp_path)


def test_a_snapshot_of_the_hubs_own_cache_keeps_its_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--o--n" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--o--n" / "blobs").mkdir()
    write_parquet(tmp_path / "datasets--o--n" / "blobs" / "1234", OWN)
    (snapshot / "train.parquet").symlink_to(Path("../../blobs/1234"))
    assert texts(tmp_path, path="datasets--o--n/snapshots/abc") == ["Its own."]
    write_parquet(tmp_path / "secret.parquet", SECRET)
    (snapshot / "train-2.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises(ManifestError, match="a link leads out"):
        texts(tmp_path, path="datasets--o--n/snapshots/abc")


def test_kinds_of_files_that_are_no_tables_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "train.jsonl").unlink()
    (folder / "train.toml").write_text("a = 1")
    with pytest.raises(ManifestError, match="of the kind"):
        texts(tmp_path)


@pytest.mark.parametrize("name", ["../secret/data.arrow", "{outside}/secret/data.arrow", "link.arrow"])
def test_a_saved_set_whose_state_names_a_file_outside_is_refused(name: str, tmp_path: Path) -> None:
    datasets.Dataset.from_list(SECRET).save_to_disk(tmp_path / "secret")
    (tmp_path / "secret" / "data-00000-of-00001.arrow").rename(tmp_path / "secret" / "data.arrow")
    datasets.Dataset.from_list(OWN).save_to_disk(tmp_path / "folder")
    (tmp_path / "folder" / "link.arrow").symlink_to(tmp_path / "secret" / "data.arrow")
    state = tmp_path / "folder" / "state.json"
    state.write_text(
        json.dumps(json.loads(state.read_text()) | {"_data_files": [{"filename": name.format(outside=tmp_path)}]})
    )
    with pytest.raises(ManifestError, match=r"leads out|absolute"):
        texts(tmp_path)


def test_a_saved_dict_whose_split_is_outside_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_list(SECRET).save_to_disk(tmp_path / "secret")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(OWN)}).save_to_disk(tmp_path / "folder")
    (tmp_path / "folder" / "dataset_dict.json").write_text('{"splits": ["../secret"]}')
    with pytest.raises(ManifestError, match="leads out"):
        texts(tmp_path, split="../secret")


def test_a_folder_with_the_name_of_an_id_is_checked_like_any_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library takes `owner/name` for a folder where there is one."""
    (tmp_path / "owner").mkdir()
    card(folder, f"config_name: default\n  data_files: {tmp_path}/secret.jsonl")
    folder.rename(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError, match="absolute"):
        list(dataset(tmp_path, {"type": "hf", "id": "owner/name", "columns": {"text": "s"}}))
