"""Captured values against plain torch hooks on a plain transformers forward, written here a second time."""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.trace.batches import PaddedBatch, pad_batch
from steercache.trace.capture import capture, make_capture
from tests.models.tiny import N_LAYERS, PATHS, TEXT_FAMILIES, WIDTH, manifest_of, write_tiny

SUMMED = ("resid_pre", "attn_out", "mlp_out", "resid_post")
SITES = (*SUMMED, "head_out")
LAYERS = tuple(range(N_LAYERS))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LENGTHS = {"unpadded": (7, 7), "left": (9, 3, 6), "right": (9, 3, 6)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_tiny(family, tmp_path_factory.mktemp(family)) for family in TEXT_FAMILIES}


def fresh(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype=dtype)


load = functools.cache(fresh)  # for tests that leave the model as it is


def sample(ids: list[int]) -> EncodedSample:
    n, none = len(ids), np.full(len(ids), -1, dtype=np.int32)
    off = np.zeros(n, dtype=bool)
    return EncodedSample(
        text="",
        input_ids=np.array(ids, dtype=np.int32),
        char_start=none,
        char_end=none,
        kind=np.zeros(n, dtype=np.int8),
        is_anchor=off,
        is_control=off,
        tile=none,
        patch_row=none,
        patch_col=none,
    )


def random_ids(lengths: tuple[int, ...], *, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


def batch_of(ids: list[list[int]], side: str) -> PaddedBatch:
    return pad_batch([sample(row) for row in ids], padding_side="left" if side == "left" else "right", pad_id=0)


def plain_inputs(ids: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """Padded by hand, without the code under test."""
    width = max(map(len, ids))
    rows, masks, positions = [], [], []
    for row in ids:
        pad = [0] * (width - len(row))
        rows.append(pad + row if side == "left" else row + pad)
        masks.append([0] * len(pad) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(pad))
        positions.append([0] * len(pad) + list(range(len(row))))
    inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}
    return inputs | ({"position_ids": torch.tensor(positions)} if side == "left" else {})


def hooked_forward(
    model: nn.Module, family: str, inputs: dict[str, torch.Tensor]
) -> dict[tuple[str, int], torch.Tensor]:
    """Every site by hooks that copy what they see at once, so that a later write into it would show."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    handles = []

    def keep(key: tuple[str, int], module: nn.Module, *, before: bool = False) -> None:
        def hook(_: nn.Module, args: Any, output: Any = None) -> None:
            value = args[0] if before else output
            streams = family == "gemma3n_text" and key[0].startswith("resid")  # of four the first is the active one
            seen[key] = (value[0] if isinstance(value, tuple) or streams else value).clone()

        handles.append(module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook))

    paths = PATHS[family]
    for layer, block in enumerate(model.get_submodule(paths.blocks).children()):
        keep(("resid_pre", layer), block, before=True)
        keep(("resid_post", layer), block)
        if paths.attn_out:
            keep(("head_out", layer), block.get_submodule(paths.head_out), before=True)
            keep(("attn_out", layer), block.get_submodule(paths.attn_out))
            keep(("mlp_out", layer), block.get_submodule(paths.mlp_out))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The stored bits, so that NaN equals NaN and 0 differs from -0."""
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_site_and_layer_equals_a_plain_forward_bit_for_bit(
    family: str, dtype: str, folders: dict[str, Path]
) -> None:
    loaded = load(folders[family], dtype)
    assert_equals_plain_forward(loaded, family, DTYPES[dtype])


@pytest.mark.parametrize("family", [family for family in TEXT_FAMILIES if family != "gemma2"])
def test_the_same_holds_for_sdpa_attention(family: str, folders: dict[str, Path]) -> None:
    loaded = load_model(manifest_of(folders[family], attention="sdpa"), cache_dir=folders[family], device="cpu")
    assert loaded.model.config._attn_implementation == "sdpa"
    assert_equals_plain_forward(loaded, family, torch.float32)


def assert_equals_plain_forward(loaded: LoadedModel, family: str, dtype: torch.dtype) -> None:
    for side, lengths in LENGTHS.items():
        ids = random_ids(lengths)
        expected = hooked_forward(loaded.model, family, plain_inputs(ids, side))
        sites = SITES if PATHS[family].attn_out else ("resid_pre", "resid_post")
        states = capture(loaded, batch_of(ids, side), sites=sites, layers=LAYERS)
        assert len(expected) == len(sites) * N_LAYERS
        for (site, layer), value in expected.items():
            got = states[site][layer]
            assert got.shape == (len(ids), max(lengths), WIDTH)
            assert got.dtype == dtype
            assert not got.requires_grad
            assert torch.equal(bits(got), bits(value)), (side, site, layer)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_padding_does_not_reach_the_tokens(family: str, folders: dict[str, Path]) -> None:
    loaded = load(folders[family])
    ids = random_ids(LENGTHS["left"])
    alone = [hooked_forward(loaded.model, family, {"input_ids": torch.tensor([tokens])}) for tokens in ids]
    for side in ("left", "right"):
        batch = batch_of(ids, side)
        states = capture(loaded, batch, sites=["resid_post"], layers=LAYERS)["resid_post"]
        for row, (start, length) in enumerate(zip(batch.starts, map(len, ids), strict=True)):
            for layer in LAYERS:
                got, expected = states[layer][row, start : start + length], alone[row]["resid_post", layer][0]
                torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [family for family in TEXT_FAMILIES if PATHS[family].attn_out])
def test_attention_and_mlp_are_what_the_residual_stream_gains(family: str, folders: dict[str, Path]) -> None:
    states = capture(load(folders[family]), batch_of(random_ids((8,)), "right"), sites=SUMMED, layers=LAYERS)
    for pre, attn, mlp, post in zip(*(states[site] for site in SUMMED), strict=True):
        torch.testing.assert_close(pre + attn + mlp, post, atol=1e-5, rtol=1e-5)
        assert attn.norm() > 0.01 * pre.norm()  # neither is negligible, so leaving it out would show
        assert mlp.norm() > 0.01 * pre.norm()


def test_the_parallel_blocks_of_gpt_neox_add_up_whether_parallel_or_not(tmp_path: Path) -> None:
    for parallel in (True, False):
        folder = write_tiny("gpt_neox", tmp_path / str(parallel), use_parallel_residual=parallel)
        states = capture(load(folder), batch_of(random_ids((8,)), "right"), sites=SUMMED, layers=LAYERS)
        for pre, attn, mlp, post in zip(*(states[site] for site in SUMMED), strict=True):
            torch.testing.assert_close(pre + attn + mlp, post, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_last_layer_is_the_block_output_and_not_the_normed_one(family: str, folders: dict[str, Path]) -> None:
    loaded = load(folders[family])
    ids = random_ids((6,))
    last = capture(loaded, batch_of(ids, "right"), sites=["resid_post"], layers=[N_LAYERS - 1])["resid_post"][0]
    with torch.no_grad():
        hidden = loaded.model(input_ids=torch.tensor(ids), output_hidden_states=True).hidden_states
        if family == "gemma3n_text":  # whose last entry has all streams, before they are merged and normed
            assert torch.equal(hidden[-1][0], last)
            return
        normed = loaded.model.get_submodule(PATHS[family].final_norm)(last)
    assert torch.equal(hidden[-1], normed)
    assert not torch.allclose(hidden[-1], last, atol=1e-3)


@pytest.fixture
def counted(folders: dict[str, Path]) -> tuple[LoadedModel, Counter[str]]:
    """A Llama whose blocks, final norm and head count their calls."""
    loaded = fresh(folders["llama"])
    calls: Counter[str] = Counter()
    names = {f"model.layers.{i}": str(i) for i in LAYERS} | {"model.norm": "norm", "lm_head": "head"}
    names |= {"model.layers.1.self_attn": "attn1", "model.layers.1.mlp": "mlp1"}
    for path, name in names.items():
        loaded.model.get_submodule(path).register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    return loaded, calls


@pytest.mark.parametrize(
    ("sites", "layers", "called"),
    [
        (["resid_post"], [0, 1], {"0", "1", "attn1", "mlp1"}),
        (["resid_pre"], [1], {"0", "1"}),
        (["attn_out"], [1], {"0", "1", "attn1"}),
        (["resid_post"], [2], {"0", "1", "2", "attn1", "mlp1"}),
    ],
)
def test_nothing_runs_after_the_last_site_wanted(
    sites: list[str], layers: list[int], called: set[str], counted: tuple[LoadedModel, Counter[str]]
) -> None:
    loaded, calls = counted
    capture(loaded, batch_of(random_ids((5,)), "right"), sites=sites, layers=layers)
    assert calls == Counter(called)


def test_chosen_layers_and_sites_are_those_of_the_whole_capture(folders: dict[str, Path]) -> None:
    loaded = load(folders["gemma2"])
    batch = batch_of(random_ids((9, 4)), "right")
    whole = capture(loaded, batch, sites=SITES, layers=LAYERS)
    part = capture(loaded, batch, sites=["mlp_out", "resid_pre"], layers=[0, 2])
    assert list(part) == ["mlp_out", "resid_pre"]
    for site, values in part.items():
        assert [torch.equal(v, whole[site][layer]) for v, layer in zip(values, [0, 2], strict=True)] == [True, True]


def test_the_asked_dtype_is_a_rounding_of_the_models_own(folders: dict[str, Path]) -> None:
    loaded = load(folders["qwen3"])
    batch = batch_of(random_ids((6,)), "right")
    own = capture(loaded, batch, sites=["resid_post"], layers=LAYERS)["resid_post"]
    for name, dtype in DTYPES.items():
        asked = capture(loaded, batch, sites=["resid_post"], layers=LAYERS, dtype=name)["resid_post"]  # type: ignore[arg-type]
        assert all(torch.equal(a, o.to(dtype)) for a, o in zip(asked, own, strict=True))


def test_infinities_and_massive_activations_come_back_as_they_were(folders: dict[str, Path]) -> None:
    loaded = fresh(folders["llama"], "float16")
    ids = [[5, 6, 7, 8]]
    with torch.no_grad():
        loaded.model.model.embed_tokens.weight[6] = 60_000.0
        loaded.model.model.layers[0].mlp.down_proj.weight *= 60_000.0
    expected = hooked_forward(loaded.model, "llama", plain_inputs(ids, "right"))
    states = capture(loaded, batch_of(ids, "right"), sites=SITES, layers=LAYERS)
    assert not torch.isfinite(states["resid_post"][1]).all()
    assert (states["resid_pre"][0] == 60_000.0).any()
    for (site, layer), value in expected.items():
        assert torch.equal(bits(states[site][layer]), bits(value)), (site, layer)


def test_a_capture_leaves_the_model_as_it_was(folders: dict[str, Path]) -> None:
    loaded = fresh(folders["gpt2"])
    ids = torch.tensor(random_ids((7,)))
    with torch.no_grad():
        before = loaded.model(input_ids=ids).logits
        make_capture(loaded, sites=SITES, layers=[0])(batch_of(ids.tolist(), "right"))
        after = loaded.model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())


def test_one_capture_serves_batches_of_any_shape(folders: dict[str, Path]) -> None:
    loaded = load(folders["mistral"])
    run = make_capture(loaded, sites=["resid_post"], layers=LAYERS)
    for lengths in ((3,), (8, 2), (5, 5, 5)):
        ids = random_ids(lengths)
        expected = hooked_forward(loaded.model, "mistral", plain_inputs(ids, "right"))
        got = run(batch_of(ids, "right"))["resid_post"]
        assert all(torch.equal(got[layer], expected["resid_post", layer]) for layer in LAYERS)


@pytest.mark.parametrize(
    ("sites", "layers"),
    [(["resid_mid"], [0]), ([], [0]), (["resid_post"], [N_LAYERS]), (["resid_post"], [-1]), (["resid_post"], [1, 0])],
)
def test_sites_and_layers_that_a_model_lacks_are_refused(
    sites: list[str], layers: list[int], folders: dict[str, Path]
) -> None:
    with pytest.raises(UsageError):
        make_capture(load(folders["llama"]), sites=sites, layers=layers)
