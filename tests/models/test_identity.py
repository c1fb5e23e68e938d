"""A vector's model is known by its weights: not by a name, which another folder can have."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from steercache.core.lineage import lineage_of
from steercache.core.vectors import FittedOn
from steercache.manifests.model import ModelManifest
from steercache.models.identity import backbone_fingerprints, loaded_fingerprints
from steercache.models.load import load_bundle
from steercache.models.spec import ModelSpec
from tests.models.tiny import manifest_of, write_tiny


def fitted_on(spec: ModelSpec, **changes: Any) -> FittedOn:
    return replace(FittedOn(name=spec.name, fingerprint=spec.fingerprint, modality="text"), **changes)


def write_manifest(path: Path, folder: Path, **fields: Any) -> None:
    document = {"kind": "model", "version": 1, "name": path.stem, "source": {"type": "path", "folder": str(folder)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document | fields))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one shape."""
    folder = tmp_path_factory.mktemp("two")
    return write_tiny("llama", folder / "one"), write_tiny("llama", folder / "two", seed=1)


def spec_of(folder: Path, cache: Path, *, base_dir: Path | None = None, **fields: Any) -> ModelSpec:
    return load_bundle(manifest_of(folder, **fields), cache_dir=cache, base_dir=base_dir).spec


def test_own_is_what_has_the_same_weights_whatever_it_is_called(folders: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (spec_of(folder, tmp_path) for folder in folders)
    assert lineage_of(fitted_on(one, name="renamed"), one) == "own"
    assert lineage_of(fitted_on(two, name=one.name), one) == "foreign"
    assert lineage_of(None, one) == "unknown"
    kin = replace(one, kin=(two.fingerprint,))
    assert lineage_of(fitted_on(two), kin) == "own"


def test_a_backbone_is_known_by_its_weights_beside_the_models_manifest(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, elsewhere, cache = tmp_path / "mine", tmp_path / "elsewhere", tmp_path / "cache"
    write_manifest(mine / "text-part.yaml", folders[1])
    write_manifest(elsewhere / "text-part.yaml", folders[0])
    monkeypatch.chdir(elsewhere)  # where another model has that name
    grown = spec_of(folders[0], cache, base_dir=mine, backbone="text-part")
    backbone, other = spec_of(folders[1], cache), write_tiny("llama", tmp_path / "other", seed=2)
    assert grown.backbone_fingerprints == (backbone.fingerprint,)
    assert lineage_of(fitted_on(backbone, name="any name"), grown) == "backbone"
    assert lineage_of(fitted_on(spec_of(other, cache), name="text-part"), grown) == "foreign"


def test_a_backbone_that_is_not_here_cannot_be_compared(folders: tuple[Path, Path], tmp_path: Path) -> None:
    write_manifest(tmp_path / "gone.yaml", tmp_path / "no-folder")
    one, two = (
        spec_of(folders[0], tmp_path / "cache", base_dir=tmp_path, backbone="gone"),
        spec_of(folders[1], tmp_path / "cache"),
    )
    assert one.backbone_fingerprints == ()
    assert lineage_of(fitted_on(two, name="gone"), one) == "unknown"
    assert lineage_of(fitted_on(two), one) == "foreign"
    hub = ModelManifest.model_validate_json(
        '{"kind": "model", "version": 1, "name": "x", "backbone": "gemma-2-2b", "source": {"type": "path", "folder": "x"}}'
    )
    assert backbone_fingerprints(hub, cache_dir=tmp_path, base_dir=None) == ()  # a shipped manifest, nothing fetched


def test_a_plain_model_is_known_by_the_folder_it_was_loaded_from(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "copy"
    shutil.copytree(folders[0], folder)
    one, two = (spec_of(source, tmp_path / "cache") for source in folders)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded_fingerprints(model) == (one.fingerprint,)
    shutil.copytree(folders[1], folder, dirs_exist_ok=True)
    assert loaded_fingerprints(AutoModelForCausalLM.from_pretrained(folder)) == (two.fingerprint,)
    assert loaded_fingerprints(AutoModelForCausalLM.from_config(model.config)) == (
        two.fingerprint,
    )  # as far as it says
    model.config._name_or_path = "owner/on-the-hub"
    assert loaded_fingerprints(model) == ()
