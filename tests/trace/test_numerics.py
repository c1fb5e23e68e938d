"""Numerics are measured: kernels that compute other bits are told apart, equal ones are not, whatever they are called."""

import pytest
import torch

from steercache.core.errors import UsageError
from steercache.core.numerics import numeric_differences, require_same_numerics
from steercache.models.load import load_model
from steercache.trace.numerics import numerics, numerics_of
from steercache.trace.picture_probe import picture_numerics
from steercache.trace.probe import probe_kernels
from tests.kernels import another_cpu, measured, without_onednn
from tests.models.tiny import manifest_of
from tests.models.tiny_images import write_tiny_images


def test_a_cpu_that_multiplies_otherwise_is_told_apart_and_equal_ones_are_not() -> None:
    there = measured(**another_cpu())
    here = probe_kernels(["bfloat16", "float32"], torch.device("cpu"), n_threads=1)
    assert there.cpu == torch.backends.cpu.get_cpu_capability(), "its name gives no correction"
    assert there.probe["bfloat16"]["products"] != here["bfloat16"]["products"]
    assert there.probe["float32"] == here["float32"], "those variables switch kernels of bfloat16 alone"


def test_vector_functions_of_another_instruction_set_are_told_apart() -> None:
    here = probe_kernels(["float32"], torch.device("cpu"), n_threads=1)
    assert measured(ATEN_CPU_CAPABILITY="default").probe["float32"]["functions"] != here["float32"]["functions"]


def test_kernels_switched_within_a_process_are_measured_anew() -> None:
    cpu, n_threads = torch.device("cpu"), torch.get_num_threads()
    here = probe_kernels(["bfloat16"], cpu, n_threads=1)
    with without_onednn():
        assert probe_kernels(["bfloat16"], cpu, n_threads=1)["bfloat16"]["products"] != here["bfloat16"]["products"]
    assert probe_kernels(["bfloat16"], cpu, n_threads=1) == here
    probe_kernels(["float32"], cpu, n_threads=n_threads + 1)
    assert torch.get_num_threads() == n_threads


def test_a_loaded_model_says_its_attention_also_in_the_vision_tower(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("paligemma")
    write_tiny_images("paligemma", folder)
    loaded = load_model(manifest_of(folder, attention="eager"), cache_dir=folder / "cache", device="cpu")
    found = numerics_of(loaded)
    assert (found["attention"], found["vision_attention"]) == ("eager", "eager")
    assert found == numerics(loaded.bundle, device=torch.device("cpu"))
    loaded.model.config.vision_config._attn_implementation = "sdpa"
    assert numeric_differences(found, numerics_of(loaded)) == ["vision_attention was 'eager', is 'sdpa'"]
    assert found["pictures"]["processor"] == type(loaded.processor.image_processor).__name__  # type: ignore[union-attr]


def test_what_decodes_pictures_is_compared_by_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL.Image

    here = picture_numerics(None)
    monkeypatch.setattr(PIL.Image.Image, "resize", lambda self, size, resample: PIL.Image.new("RGB", size))
    picture_numerics.__globals__["_pixels"].cache_clear()
    there = picture_numerics(None)
    monkeypatch.undo()
    picture_numerics.__globals__["_pixels"].cache_clear()
    assert picture_numerics(None) == here
    (difference,) = numeric_differences({"pictures": here}, {"pictures": there})
    assert difference.startswith("pictures.pixels was")


def test_what_a_record_does_not_know_differs_from_nothing() -> None:
    now = {"device": "cpu", "torch": "2", "batch_invariant": False, "probe": {"float32": {"products": "a"}}}
    assert numeric_differences({"device": "cpu", "torch": "2"}, now) == []
    assert numeric_differences({"device": "cpu", "probe": {"bfloat16": {"products": "b"}}}, now) == []
    assert numeric_differences({}, {"batch_invariant": True}) == ["batch_invariant was False, is True"]
    with pytest.raises(UsageError, match="other bits in float32 products"):
        require_same_numerics({"probe": {"float32": {"products": "b"}}}, now, place="run")
