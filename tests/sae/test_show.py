"""`steercache sae show`: what an SAE is, as a table and as JSON, and which SAEs a manifest has."""

import json
from pathlib import Path

import pytest

from steercache.cli.main import run
from steercache.core.saes import SaeSpec
from steercache.sae.loading import load_sae
from tests.sae.folders import inference, saved


def test_an_sae_is_shown_as_a_table_and_as_its_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(inference("topk", k=4), tmp_path / "mine")
    assert run(["sae", "show", str(folder)]) == 0
    said = capsys.readouterr()
    for words in ("mine", "topk", "40 of activations of width 12", "tiny", "resid_post of layer 1", "without BOS"):
        assert words in said.out
    assert "context of 64 tokens" in said.out
    assert f"steercache sae encode {folder}" in said.out + said.err
    assert run(["sae", "show", str(folder), "--json"]) == 0
    assert SaeSpec.of_record(json.loads(capsys.readouterr().out)) == load_sae(folder).spec


def test_a_manifest_of_several_layers_shows_its_saes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sae", "show", "llama_scope_lxr_8x", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["layer"] for one in listed] == list(range(32))
    assert (listed[3]["name"], listed[3]["sae"]) == ("llama_scope_lxr_8x-l3", "l3r_8x")
    assert run(["sae", "show", "llama_scope_lxr_8x"]) == 0
    assert "llama_scope_lxr_8x-l31" in capsys.readouterr().out


def test_what_is_missing_is_told_with_the_command_that_fetches_it(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sae", "show", "llama_scope_lxr_8x", "--layer", "3"]) == 4
    said = capsys.readouterr().err
    assert "hf download fnlp/Llama3_1-8B-Base-LXR-8x --include 'Llama3_1-8B-Base-L3R-8x*'" in said
    assert run(["sae", "show", "no-such-sae"]) == 4
    assert "no-such-sae" in capsys.readouterr().err


def test_a_damaged_folder_exits_with_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(inference("standard"), tmp_path / "mine")
    (folder / "sae_weights.safetensors").write_bytes(b"")
    assert run(["sae", "show", str(folder)]) == 5
    assert str(folder) in capsys.readouterr().err
