"""What MODEL means: the zoo's names are the zoo's, a folder is a path, and an adapter's folder is not looked up as a name."""

import shutil
import warnings
from pathlib import Path

import pytest

from steercache import zoo
from steercache.cells.model import find_model
from steercache.core.errors import ManifestError, SteercacheWarning
from tests.tiny import write_tiny_model


def test_a_name_of_the_zoo_is_not_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    shipped = find_model("tiny", root).bundle(root).spec
    write_tiny_model(tmp_path / "tiny")
    with pytest.warns(SteercacheWarning, match=r"the folder of that name here is \./tiny"):
        assert find_model("tiny", root).bundle(root).spec.fingerprint == shipped.fingerprint
    assert find_model("./tiny", root).bundle(root).spec.fingerprint != shipped.fingerprint


def test_a_built_folder_knows_the_backbone_it_grew_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    shipped = find_model("tiny", root).bundle(root).spec
    assert shipped.backbone_fingerprints
    shutil.copytree(zoo.build("tiny", tmp_path / "tiny"), tmp_path / "renamed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the same model as the name means
        find_model("tiny", root)
    renamed = find_model("renamed", root).bundle(root).spec
    assert (renamed.fingerprint, renamed.backbone_fingerprints) == (shipped.fingerprint, shipped.backbone_fingerprints)


def test_a_folder_of_an_adapter_is_named_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"only an adapter \(PEFT\)"):
        find_model(str(folder), tmp_path).bundle(tmp_path)
