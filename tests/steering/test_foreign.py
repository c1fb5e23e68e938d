"""A vector on other weights than its own: a warning where it is added in Python, and none where nothing is wrong."""

import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import steercache
from steercache.core.errors import SteercacheWarning, UsageError
from steercache.core.vectors import FittedOn, SteeringVector
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.steering.effects import WordMassPlan, word_mass_effect
from steercache.steering.foreign import ForeignVectorWarning
from tests.models.tiny import N_LAYERS, TEXT_FAMILIES, WIDTH, manifest_of, write_tiny
from tests.models.tiny_images import MAKERS, write_tiny_images

FOREIGN = r"was fitted on other weights|does not descend from"


def loaded(folder: Path, **fields: Any) -> LoadedModel:
    return load_model(manifest_of(folder, **fields), cache_dir=folder.parent / "cache", device="cpu")


def vector_of(model: LoadedModel, **changes: Any) -> SteeringVector:
    spec = model.spec
    values = np.ones((N_LAYERS, WIDTH), dtype=np.float32)
    on = FittedOn(name=spec.name, fingerprint=spec.fingerprint, modality=spec.modality)
    return SteeringVector(
        name="v",
        method="by_hand",
        concept=None,
        site="resid_post",
        layers=tuple(range(N_LAYERS)),
        values=values,
        fitted_on=replace(on, **changes),
    )


def steer_once(model: Any, vector: SteeringVector) -> None:
    ids = torch.tensor([[1, 5, 6, 7]])
    with steercache.steer(model, vector, layer=1, alpha=1.0) as module, torch.no_grad():
        module(ids)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("two")
    return write_tiny("llama", folder / "one"), write_tiny("llama", folder / "two", seed=1)


@pytest.mark.parametrize("plain", [False, True])
def test_another_model_of_equal_width_is_warned_of_and_its_own_is_not(plain: bool, folders: tuple[Path, Path]) -> None:
    own, other = (loaded(folder) for folder in folders)
    vector = vector_of(own)
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders] if plain else [own, other]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steer_once(models[0], vector)
        steer_once(models[1], replace(vector, fitted_on=None))  # nothing to compare
    with pytest.warns(ForeignVectorWarning, match=FOREIGN) as caught:
        steer_once(models[1], vector)
    assert issubclass(ForeignVectorWarning, SteercacheWarning)
    assert caught[0].filename == __file__  # the caller's line


@pytest.mark.parametrize("plain", [False, True])
def test_a_folder_that_was_overwritten_since_the_fit_is_warned_of(plain: bool, tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    vector = vector_of(loaded(folder))
    write_tiny("llama", folder, seed=1)
    with pytest.warns(ForeignVectorWarning, match="other weights"):
        steer_once(AutoModelForCausalLM.from_pretrained(folder) if plain else loaded(folder), vector)


def test_words_after_prompts_warn_too(folders: tuple[Path, Path]) -> None:
    own, other = (loaded(folder) for folder in folders)
    plan = WordMassPlan(
        words=("the", "cat", "is", "on"), prompts=("The cat is on",), layer=1, alphas=(1.0,), target="all", n_random=0
    )
    with pytest.warns(ForeignVectorWarning, match=FOREIGN):
        word_mass_effect(other, vector_of(own), plan)


def test_a_vector_of_the_backbone_is_at_home_in_what_grew_from_it(tmp_path: Path) -> None:
    grown = loaded(write_tiny_images("paligemma", tmp_path / "mllm"))
    text = loaded(write_tiny("llama", tmp_path / "text"))
    vector = vector_of(text)
    known = replace(grown.spec, backbone="tiny", backbone_fingerprints=(text.spec.fingerprint,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steer_once(replace(grown, bundle=replace(grown.bundle, spec=known)), vector)
        steer_once(grown.model, vector)  # a plain model does not say what it grew from
    with pytest.warns(ForeignVectorWarning, match="does not descend from|other weights"):
        steer_once(grown, vector)


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *MAKERS])
def test_a_bare_model_is_named_as_such(family: str, tmp_path: Path) -> None:
    writer = write_tiny if family in TEXT_FAMILIES else write_tiny_images
    bare = AutoModel.from_pretrained(writer(family, tmp_path / "model"))
    vector = replace(vector_of(loaded(write_tiny("llama", tmp_path / "text"))), fitted_on=None)
    with pytest.raises(UsageError, match="is the bare model, without its language-model head") as caught:
        steer_once(bare, vector)
    assert "AutoModelForCausalLM" in str(caught.value.hint)
    assert "pip install" not in str(caught.value)


def test_an_adapter_around_a_model_is_named_as_such(folders: tuple[Path, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[0])
    around = SimpleNamespace(config=model.config, peft_config={}, get_base_model=lambda: model)  # as PeftModel looks
    with pytest.raises(UsageError, match=r"is an adapter \(PEFT\) around a model") as caught:
        steer_once(around, vector_of(loaded(folders[0])))
    assert "merge_and_unload" in str(caught.value.hint)
