"""The keys for older readers say what the newer ones say, and change nothing for a newer reader."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from steercache.models.fingerprint import meaning
from steercache.models.older_readers import with_older_keys, write_older_keys
from tests.models.tiny import TEXT_FAMILIES, write_tiny
from tests.models.tiny_images import MAKERS, write_tiny_images

SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_newer_reader_computes_the_same_with_and_without_them(family: str, tmp_path: Path) -> None:
    folder = write_tiny(family, tmp_path / "model", **({"rope_parameters": SCALED} if family == "llama" else {}))
    ids = torch.arange(3, 40)[None]
    before, plain = config_of(folder), AutoConfig.from_pretrained(folder).to_dict()
    logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    write_older_keys(folder)
    config = AutoConfig.from_pretrained(folder).to_dict()
    assert {k: v for k, v in config.items() if k in plain and k not in ("rope_theta", "rope_scaling")} == {
        k: v for k, v in plain.items() if k not in ("rope_theta", "rope_scaling")
    }
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, logits)
    assert meaning(config_of(folder)) == meaning(before)


@pytest.mark.parametrize("family", MAKERS)
def test_the_text_model_of_a_multimodal_one_has_them_too(family: str, tmp_path: Path) -> None:
    before = config_of(write_tiny_images(family, tmp_path / "model"))
    after = with_older_keys(before)
    assert meaning(after) == meaning(before)
    rope = before["text_config"]["rope_parameters"]
    if "full_attention" in rope:
        assert after["text_config"]["rope_theta"] == rope["full_attention"]["rope_theta"]
        assert after["text_config"]["rope_local_base_freq"] == rope["sliding_attention"]["rope_theta"]
    else:
        assert after["text_config"]["rope_theta"] == rope["rope_theta"]


def test_scaling_is_said_in_the_words_of_version_4() -> None:
    found = with_older_keys({"rope_parameters": SCALED, "dtype": "float32"})
    assert found["rope_theta"] == 5e5
    assert found["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert found["torch_dtype"] == "float32"
    assert meaning(with_older_keys({"rope_theta": 1.0})) == {"rope_theta": 1.0}  # its own key is no repeat


def test_a_list_of_repeats_hides_nothing_else_from_the_fingerprint() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = {"hidden_size": 8, "rope_theta": 1e4, "rope_parameters": rope, "_repeated": ["hidden_size", "rope_theta"]}
    assert meaning(config) == {"hidden_size": 8, "rope_parameters": rope}
    assert meaning(config | {"rope_theta": 1e6}) != meaning(config)


@pytest.mark.parametrize("listed", [["rope_theta"], "rope_theta", {"rope_theta": 1}, 3, None])
def test_a_key_that_repeats_nothing_is_what_the_model_computes_with(listed: Any) -> None:
    slow, fast = ({"rope_theta": base, "_repeated": listed} for base in (1e4, 1e6))
    assert [LlamaConfig(**c).rope_parameters["rope_theta"] for c in (slow, fast)] == [1e4, 1e6]
    assert meaning(slow) != meaning(fast)
