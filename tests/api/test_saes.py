"""SAEs by name from Python: listed from manifests without their weights."""

from pathlib import Path

import pytest

import steercache
from steercache.api.saes import list_saes, saes_of_manifest
from steercache.core.errors import NotFoundError

OWN = "kind: sae\nversion: 1\nname: mine\nsource: {type: folder, folder: here}\n"


def test_saes_of_manifests_are_listed_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(OWN)
    (tmp_path / "broken.yaml").write_text("kind: sae\nversion: 1\nname: broken\n")
    listed = {one.name: one for one in list_saes()}
    assert listed["gemma-scope-2b-pt-res-canonical-l12"].sae == "layer_12/width_16k/canonical"
    assert listed["gemma-scope-2b-pt-res-canonical-l12"].model == "gemma-2-2b"
    assert [one.layer for one in list_saes() if one.manifest == "llama_scope_lxr_8x"] == list(range(32))
    assert (listed["mine"].layer, listed["mine"].place, listed["mine"].sae) == (None, "here", None)
    assert "broken" not in listed
    assert steercache.open(tmp_path / "cache", create=True).saes() == list_saes()
    assert [one.name for one in saes_of_manifest("mine.yaml")] == ["mine"]
    assert saes_of_manifest("llama_scope_lxr_8x-l3") == []


def test_a_name_that_is_nothing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sae_lens")
    with pytest.raises(NotFoundError, match="no sae manifest named 'gemma-scop'"):
        steercache.open(tmp_path, create=True).sae("gemma-scop")
