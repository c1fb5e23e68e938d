"""A family that reads pictures around a text model that is not in the table: derived, proven, equal to a plain forward."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steercache.core.errors import NotFoundError
from steercache.models.families import is_known
from steercache.models.load import load_bundle, load_model
from steercache.models.recognise import evidence_of
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture, sites_of
from steercache.trace.encode import encode_example
from steercache.trace.tower import tower_width
from tests.models.other_backbones import BACKBONES, write_around
from tests.models.tiny import manifest_of
from tests.models.tiny_images import LLAMA, N_LAYERS, picture
from tests.trace.test_images import IMAGE, example, plain_inputs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


@pytest.mark.parametrize("name", BACKBONES)
def test_it_is_derived_and_its_rows_are_those_of_a_plain_forward(name: str, tmp_path: Path) -> None:
    read = BACKBONES[name]
    loaded = load_model(
        manifest_of(write_around(name, tmp_path / "m")), cache_dir=tmp_path, device="cpu", dtype="float32"
    )
    family = loaded.family
    assert not is_known(loaded.model.config.to_dict())
    assert family.derived
    assert loaded.spec.family == family.name == read.family
    assert (family.attn_out, family.mlp_out) == (read.attn_out, read.mlp_out)
    assert family.final_norm == f"model.language_model.{read.norm}"
    assert len(loaded.evidence) == 8
    assert all(one.holds for one in loaded.evidence)
    asked = [example("The cat is on the table", picture(50, 80, seed=i)) for i in range(2)]
    with torch.no_grad():
        own = loaded.model(**plain_inputs(loaded, *asked), output_hidden_states=True).hidden_states
    samples = [encode_example(one, loaded.bundle) for one in asked]
    assert any((sample.kind == IMAGE).any() for sample in samples)
    batch = pad_batch(samples, padding_side="left", pad_id=0)
    (tower,) = capture(loaded, batch, sites=["vision_out"], layers=[])["vision_out"]
    assert tower.shape[-1] == tower_width(loaded.config, loaded.spec.vision_size or 0)
    assert tower[..., 0].numel() == sum(len(sample.patches()) for sample in samples if sample.patches is not None)
    sites = [site for site in sites_of(family) if site not in ("connector_out", "vision_out")]
    states = capture(loaded, batch, sites=sites, layers=range(N_LAYERS))
    for layer in range(N_LAYERS - 1):
        assert torch.equal(states["resid_post"][layer], own[layer + 1])
        assert torch.equal(states["resid_pre"][layer], own[layer])
    assert ("attn_out" in sites) == bool(read.attn_out)
    if "attn_out" in sites:
        total = sum(states[site][1].double() for site in ("resid_pre", "attn_out", "mlp_out"))
        torch.testing.assert_close(total, states["resid_post"][1].double(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("gpt_neox", ("layers", "embed_in", "final_layer_norm", "attention", "mlp")),
        ("gemma2", ("layers", "embed_tokens", "norm", "post_attention_layernorm", "post_feedforward_layernorm")),
    ],
)
def test_a_text_model_of_the_table_with_other_names_of_its_parts_is_found_by_them(
    kind: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    folder = write_around("llava-phi3", tmp_path / "m", text=LLAMA | {"model_type": kind})
    loaded = load_model(manifest_of(folder), cache_dir=tmp_path, device="cpu", dtype="float32")
    family, inner = loaded.family, "model.language_model"
    assert not family.derived
    assert (family.blocks, family.embed, family.final_norm) == tuple(f"{inner}.{name}" for name in parts[:3])
    assert (family.attn_out, family.mlp_out) == parts[3:]
    asked = example("The cat is on the table", picture(50, 80))
    with torch.no_grad():
        own = loaded.model(**plain_inputs(loaded, asked), output_hidden_states=True).hidden_states
    batch = pad_batch([encode_example(asked, loaded.bundle)], padding_side="left", pad_id=0)
    rows = capture(loaded, batch, sites=["resid_post"], layers=range(N_LAYERS))["resid_post"]
    assert all(torch.equal(rows[layer], own[layer + 1]) for layer in range(N_LAYERS - 1))


def test_its_bundle_is_derived_before_the_weights_are_read_and_a_model_in_memory_is_proven_once(tmp_path: Path) -> None:
    folder = write_around("llava-phi3", tmp_path / "m")
    assert load_bundle(manifest_of(folder), cache_dir=tmp_path).family.derived
    loaded = load_model(manifest_of(folder), cache_dir=tmp_path, device="cpu")
    assert evidence_of(loaded.model) is evidence_of(loaded.model)


def test_a_text_model_that_cannot_be_derived_is_refused_by_its_type(tmp_path: Path) -> None:
    folder = write_around("llava-phi3", tmp_path / "m")
    path = folder / "config.json"
    for kind, why in (("mamba", "past_key_values"), ("t5", "'t5'")):
        config: dict[str, Any] = json.loads(path.read_text())
        config["text_config"] = {"model_type": kind}
        path.write_text(json.dumps(config))
        with pytest.raises(NotFoundError, match=why):
            load_bundle(manifest_of(folder), cache_dir=tmp_path)


def test_a_text_model_that_does_not_hold_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    loaded = load_model(manifest_of(write_around("llava-phi3", tmp_path / "m")), cache_dir=tmp_path, device="cpu")
    block = loaded.model.model.language_model.layers[2]
    block.register_forward_hook(lambda module, args, out: out + 0.1 * out.mean(1, keepdim=True))  # looks ahead
    evidence_of.__globals__["_proven"].pop(loaded.model)
    with pytest.raises(NotFoundError, match=r"type 'llava' around 'phi3' .*moves it and later ones only"):
        evidence_of(loaded.model)
