"""An SAE is read on what it was trained on: model, site, layer, width and BOS; never on the input of its block."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

import steercache
from steercache.cache.handle import CacheFolder
from steercache.core.errors import SteercacheWarning, UsageError
from steercache.core.saes import SaeSpec
from steercache.sae.fits_run import check_fits, has_bos
from steercache.sae.hooks import site_of
from steercache.sae.loading import load_sae
from tests.sae.folders import metadata, randomised, saved
from tests.tiny import sentences
from tests.tracing import write_small_trace

WIDTH = 32  # of the tiny Llama


def spec(**changes: Any) -> SaeSpec:
    fitting: dict[str, Any] = {
        "sae_id": "0" * 64,
        "name": "mine",
        "source": {},
        "architecture": "jumprelu",
        "d_in": WIDTH,
        "d_sae": 64,
        "model_name": "someone/Tiny",
        "site": "resid_post",
        "layer": 1,
        "prepend_bos": False,
    }
    return SaeSpec(**{**fitting, **changes})


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheFolder, Path]:
    folder = tmp_path_factory.mktemp("fits")
    return write_small_trace(folder / "trace", n=12, layers=[0, 1]).cache(folder / "root"), folder / "trace" / "model"


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> CacheFolder:
    folder = tmp_path_factory.mktemp("bos")
    trace = write_small_trace(folder / "trace", n=12)
    file = str(folder / "trace" / "model" / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(file)
    return trace.cache(folder / "root")


def run_id(cache: CacheFolder) -> str:
    return cache.documents()[0].run_id


def test_an_sae_of_the_runs_model_site_layer_width_and_bos_fits(
    traced: tuple[CacheFolder, Path], with_bos: CacheFolder
) -> None:
    check_fits(spec(), traced[0], run_id(traced[0]))
    check_fits(spec(model_name=None, prepend_bos=None), traced[0], run_id(traced[0]))
    check_fits(spec(prepend_bos=True), with_bos, run_id(with_bos))
    check_fits(spec(model_name="other", source={"model": "tiny"}), traced[0], run_id(traced[0]))
    assert has_bos(traced[0], run_id(traced[0])) is False
    assert has_bos(with_bos, run_id(with_bos)) is True


MISFITS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "model": ({"model_name": "google/gemma-2-2b"}, ("google/gemma-2-2b", "tiny")),
    "site": ({"site": "mlp_out"}, ("mlp_out", "resid_post")),
    "hook that no run keeps": ({"site": "blocks.1.attn.hook_z", "layer": None}, ("blocks.1.attn.hook_z", "resid_post")),
    "layer": ({"layer": 2}, ("layer 2", "layers 0, 1")),
    "no layer": ({"layer": None}, ("does not say its layer",)),
    "width": ({"d_in": 2304}, ("2,304", "32")),
    "BOS": ({"prepend_bos": True}, ("begin with BOS", "samples do not")),
    "processed weights": (
        {"weight_processing": ("center_writing_weights",)},
        ("centred weights", "as it was published"),
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused_with_both_sides_named(name: str, traced: tuple[CacheFolder, Path]) -> None:
    changes, words = MISFITS[name]
    with pytest.raises(UsageError) as caught:
        check_fits(spec(**changes), traced[0], run_id(traced[0]))
    assert all(word in caught.value.message for word in ("'mine'", "small", *words))


def test_every_misfit_is_named_at_once(traced: tuple[CacheFolder, Path]) -> None:
    with pytest.raises(UsageError) as caught:
        check_fits(spec(layer=7, d_in=5, model_name="x", prepend_bos=True), traced[0], run_id(traced[0]))
    assert caught.value.message.count(";") == 3


def test_an_sae_of_the_text_backbone_fits_a_run_of_the_model_that_was_grown_from_it(
    traced: tuple[CacheFolder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, run = traced[0], run_id(traced[0])
    document = cache.run_document(run)
    grown = replace(document.model, name="paligemma2-3b", model_id="google/paligemma2-3b", backbone="gemma-2-2b")
    monkeypatch.setattr(cache, "run_document", lambda _: replace(document, model=grown))
    check_fits(spec(model_name="google/gemma-2-2b"), cache, run)
    with pytest.raises(
        UsageError, match="trained on the model gemma-2-9b, the run is of paligemma2-3b, grown from gemma-2-2b"
    ):
        check_fits(spec(model_name="gemma-2-9b"), cache, run)


def test_an_sae_trained_without_bos_does_not_fit_a_run_with_it(with_bos: CacheFolder) -> None:
    with pytest.raises(UsageError, match=r"trained on texts without BOS, the run's samples begin with a special token"):
        check_fits(spec(prepend_bos=False), with_bos, run_id(with_bos))


def test_a_foreign_model_and_bos_can_be_allowed_and_a_wrong_place_cannot(traced: tuple[CacheFolder, Path]) -> None:
    cache, run = traced[0], run_id(traced[0])
    with pytest.warns(SteercacheWarning, match=r"other-model.*begin with BOS"):
        check_fits(spec(model_name="other-model", prepend_bos=True), cache, run, allow_foreign=True)
    with pytest.raises(UsageError, match="layer 2"):
        check_fits(spec(layer=2), cache, run, allow_foreign=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_fits(spec(), cache, run, allow_foreign=True)


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("blocks.7.hook_resid_post", ("resid_post", 7)),
        ("blocks.8.hook_resid_pre", ("resid_post", 7)),
        ("blocks.0.hook_resid_pre", ("resid_pre", 0)),
        ("model.layers.7.output", ("resid_post", 7)),
        ("model.layers.7", ("resid_post", 7)),
        ("model.language_model.layers.7", ("resid_post", 7)),
        ("model.layers.7.input", ("resid_post", 6)),
        ("blocks.7.hook_mlp_out", ("blocks.7.hook_mlp_out", None)),
        ("blocks.7.hook_resid_mid", ("blocks.7.hook_resid_mid", None)),
        (
            "model.layers.7.post_feedforward_layernorm.output",
            ("model.layers.7.post_feedforward_layernorm.output", None),
        ),
        (None, ("unknown", None)),
    ],
)
def test_a_hook_is_a_site_and_a_block(hook: str | None, place: tuple[str, int | None]) -> None:
    assert site_of(hook) == place


@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "model.layers.1.output"])
def test_an_sae_of_layer_l_reads_the_output_of_block_l_not_its_input(
    hook: str, traced: tuple[CacheFolder, Path], tmp_path: Path
) -> None:
    """The published code of arXiv 2505.14071 encodes `hidden_states[l]`, which is the input of block l."""
    from sae_lens import StandardSAE, StandardSAEConfig

    made = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=64, metadata=metadata(hook_name=hook)))
    sae = load_sae(saved(randomised(made), tmp_path / "sae"))
    cache, folder = traced
    check_fits(sae.spec, cache, run_id(cache))
    text = sentences(12)[0]
    assert sae.spec.layer is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    outputs: list[Any] = []
    model.model.layers[1].register_forward_hook(lambda module, given, out: outputs.append(out))
    with torch.no_grad():
        hidden = model(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states
    n_tokens = inputs["input_ids"].shape[1]
    output = (outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]).reshape(n_tokens, WIDTH)

    encoded = steercache.open(cache.root).encode(tmp_path / "sae", run="small").read(np.arange(n_tokens)).dense()
    np.testing.assert_allclose(encoded, sae.encode(output).numpy(), atol=1e-4)
    assert not np.allclose(encoded, sae.encode(hidden[1][0]).numpy(), atol=1e-2)
    source = cache.source(run_id(cache))
    rows = torch.from_numpy(np.array(source.gather(sae.spec.site, sae.spec.layer, np.arange(n_tokens))))
    features = sae.encode(rows)
    np.testing.assert_allclose(rows.numpy(), output.numpy(), atol=1e-5)
    np.testing.assert_allclose(features.numpy(), sae.encode(output).numpy(), atol=1e-4)
    assert not np.allclose(rows.numpy(), hidden[1][0].numpy(), atol=1e-2)
    assert not np.allclose(features.numpy(), sae.encode(hidden[1][0]).numpy(), atol=1e-2)
