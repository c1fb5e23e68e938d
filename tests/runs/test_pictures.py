"""Pictures in the cache: every family's rows are what a plain forward computes, bit for bit, with all that a forward needs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.cache.commit import RunWriter
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.source import RunSource
from steercache.cache.verify import verify_run
from steercache.core.errors import DamagedError, UsageError
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.store.dtypes import bits_dtype
from tests.models.tiny import manifest_of
from tests.models.tiny_images import GRIDS, MAKERS, N_LAYERS, TILED, picture
from tests.runs.pictures import QUESTIONS, SIZES, example_of, write_pictures_trace
from tests.trace.test_images import SITES, TYPES, hooked_forward, plain_inputs, sites_of
from tests.tracing import SmallTrace, write_small_trace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

# Layouts of the slow ones are tested by themselves in tests/trace.
IN_FLOAT32 = [pytest.param(family, "float32", marks=[pytest.mark.slow] if family in TILED else []) for family in MAKERS]
ASKED = [q for q in QUESTIONS if q[1] is not None][:4]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tmp_path_factory.mktemp(family) for family in MAKERS}


def load(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(manifest_of(folder / "model"), cache_dir=folder / "models", device="cpu", dtype=dtype)


def newest(cache: CacheFolder) -> RunSource:
    return cache.source(cache.documents()[0].run_id)


def ask(cache: CacheFolder, sql: str) -> list[tuple[Any, ...]]:
    with cache.connection() as connection:
        return list(connection.execute(sql).fetchall())


def bits(rows: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(rows).view(bits_dtype(dtype))  # type: ignore[arg-type]


def torch_bits(rows: torch.Tensor, dtype: str) -> np.ndarray:
    return rows.contiguous().view(torch.uint16 if dtype == "bfloat16" else torch.uint32).numpy().view(bits_dtype(dtype))  # type: ignore[arg-type]


def typed(trace: SmallTrace, dtype: str) -> dict[str, Any]:
    """The model of a trace, computing in `dtype`."""
    source = {"type": "path", "folder": "model"}
    return {"kind": "model", "version": 1, "name": "tiny", "attention": "eager", "dtype": dtype, "source": source}


@pytest.mark.parametrize(("family", "dtype"), [*IN_FLOAT32, ("idefics3", "bfloat16")])
def test_every_row_of_every_site_equals_a_plain_forward_bit_for_bit(
    family: str, dtype: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[family]
    trace = write_pictures_trace(folder, family, questions=ASKED)
    sites = [*sites_of(family), "connector_out"]
    write_pictures_trace(folder, family, questions=ASKED, sites=sites, model=typed(trace, dtype))
    source = newest(trace.cache(tmp_path / "rows"))
    assert source.document.replayable
    write_pictures_trace(folder, family, questions=ASKED, sites=["vision_out"], model=typed(trace, dtype))
    towers = newest(trace.cache(tmp_path / "towers"))
    assert not towers.document.replayable
    loaded, first, first_patch = load(folder, dtype), 0, 0
    for question in ASKED:
        inputs = plain_inputs(loaded, example_of(folder, question))
        expected = hooked_forward(loaded.model, family, inputs)
        n = inputs["input_ids"].shape[1]
        rows = np.arange(first, first + n)
        for (site, layer), value in expected.items():
            if site in SITES:
                got = source.gather(site, layer, rows)
                assert np.array_equal(bits(got, dtype), torch_bits(value[0], dtype)), (question, site, layer)
        is_image = (inputs["input_ids"][0] == loaded.config.image_token_id).numpy()
        connected = source.gather("connector_out", -1, rows)
        entering = expected["resid_pre", 0][0]
        assert np.array_equal(bits(connected[is_image], dtype), torch_bits(entering[torch.from_numpy(is_image)], dtype))
        assert np.isnan(connected[~is_image].astype(np.float32)).all()
        tower = expected["vision_out", -1]
        tower = tower.reshape(-1, tower.shape[-1])
        got = towers.gather("vision_out", -1, np.arange(first_patch, first_patch + len(tower)))
        assert np.array_equal(bits(got, dtype), torch_bits(tower, dtype)), question
        first, first_patch = first + n, first_patch + len(tower)
    assert (first, first_patch) == (source.document.n_rows, towers.document.n_rows)


@pytest.mark.parametrize(
    "family", [f if f in ("paligemma", "qwen2_5_vl") else pytest.param(f, marks=pytest.mark.slow) for f in MAKERS]
)
def test_a_replayable_run_has_all_that_a_forward_needs_again_but_the_pictures(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[family]
    numerics = {"tokens_per_batch": 120, "threads": 1, "padding_side": "left"}
    cache = write_pictures_trace(folder, family, layers=[N_LAYERS - 1], numerics=numerics).cache(tmp_path / "root")
    loaded, source = load(folder), newest(cache)
    order = ask(cache, "select batch_no, slot, sample_idx, padded_len, n_tokens from samples order by all")
    side = source.document.numerics["padding_side"]
    assert len({batch_no for batch_no, *_ in order}) > 1
    for batch_no in {row[0] for row in order}:
        members = [row for row in order if row[0] == batch_no]
        width = members[0][3]
        ids, mask, types = (np.zeros((len(members), width), dtype=np.int64) for _ in range(3))
        stored = {}
        for _, slot, sample_idx, _, n in members:
            tokens = ask(
                cache,
                "select position, token_id, token_type, row_idx from tokens"
                f" where sample_idx = {sample_idx} order by position",
            )
            assert [t[0] for t in tokens] == list(range(n))
            start = width - n if side == "left" else 0
            ids[slot, start : start + n] = [t[1] for t in tokens]
            mask[slot, start : start + n] = 1
            if family in TYPES:
                types[slot, start : start + n] = [t[2] for t in tokens]
            else:
                assert {t[2] for t in tokens} == {None}
            stored[slot] = start, n, source.gather("resid_post", N_LAYERS - 1, np.array([t[3] for t in tokens]))
        asked = [example_of(folder, QUESTIONS[sample_idx]) for _, _, sample_idx, _, _ in members]
        if not any(one.images for one in asked):
            continue
        pixels = pixels_of(loaded, [one for one in asked if one.images])
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), **pixels}
        if family in TYPES:
            inputs[TYPES[family]] = torch.from_numpy(types)
        if family not in GRIDS:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0) + (family == "paligemma")
        last = hooked_forward(loaded.model, family, inputs)["resid_post", N_LAYERS - 1]
        for slot, (start, n, rows) in stored.items():
            assert np.array_equal(rows, last[slot, start : start + n].numpy()), (batch_no, slot)


def pixels_of(loaded: LoadedModel, asked: list[Any]) -> dict[str, torch.Tensor]:
    """What the processor itself makes of the pictures of a batch."""
    inputs = plain_inputs(loaded, *asked, padding=True)
    return {name: inputs[name] for name in loaded.family.needs if name in inputs}


SLOW_TOWERS = [pytest.param(family, marks=pytest.mark.slow) for family in TILED]


@pytest.mark.parametrize("family", ["idefics3", "qwen2_5_vl", *SLOW_TOWERS])
def test_rows_of_the_vision_tower_have_their_places_and_other_samples_have_none(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[family]
    numerics = {"tokens_per_batch": 300, "threads": 1}
    trace = write_pictures_trace(folder, family, sites=["vision_out"], numerics=numerics)
    cache = trace.cache(tmp_path / "root")
    source, loaded = newest(cache), load(folder)
    site = source.document.layout.site("vision_out")
    n_joined = 4 if family == "internvl" else 1  # patches that its connector gets as one row
    assert (site.layers, site.width) == ((-1,), n_joined * (loaded.spec.vision_size or 0))
    for sample_idx, question in enumerate(QUESTIONS):
        found = ask(
            cache,
            "select position, tile, patch_row, patch_col, kind, token_id, piece, char_start, row_idx from tokens"
            f" where sample_idx = {sample_idx} order by position",
        )
        assert ask(cache, f"select n_tokens from samples where sample_idx = {sample_idx}") == [(len(found),)]
        if question[1] is None:
            assert found == []
            continue
        inputs = plain_inputs(loaded, example_of(folder, question))
        tower = hooked_forward(loaded.model, family, inputs)["vision_out", -1]
        tower = tower.reshape(-1, tower.shape[-1])
        assert [f[0] for f in found] == list(range(len(tower)))
        assert {f[4:8] for f in found} == {("image", -1, None, -1)}
        rows = source.gather("vision_out", -1, np.array([f[8] for f in found]))
        np.testing.assert_allclose(rows, tower.numpy(), atol=2e-5, rtol=1e-4)  # others share the batch
        places = {f[1:4] for f in found}
        if family == "idefics2":  # its views are filled up to one size
            assert len({f[1:4] for f in found if f[2] >= 0}) == sum(f[2] >= 0 for f in found) < len(tower)
            continue
        assert len(places) == len(tower)
        if family == "qwen2_5_vl":  # one grid, whose size the processor says
            _, height, width = inputs["image_grid_thw"][0].tolist()
            assert places == {(0, row, col) for row in range(height) for col in range(width)}


def test_policies_keep_rows_of_patches_too(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, sources = folders["llava"], {}
    for name, rows in (
        ("all", {"policy": "all"}),
        ("every", {"policy": "every", "every": 3}),
        ("pooled", {"policy": "pooled"}),
    ):
        sources[name] = newest(
            write_pictures_trace(folder, "llava", sites=["vision_out"], rows=rows).cache(tmp_path / name)
        )
    n_pictures = sum(q[1] is not None for q in QUESTIONS)
    whole = sources["all"].gather("vision_out", -1, np.arange(16 * n_pictures)).reshape(n_pictures, 16, -1)
    some = sources["every"].gather("vision_out", -1, np.arange(6 * n_pictures)).reshape(n_pictures, 6, -1)
    assert np.array_equal(some, whole[:, ::3])
    means = sources["pooled"].gather("vision_out", -1, np.arange(n_pictures))
    assert np.array_equal(means, whole.astype(np.float64).mean(axis=1).astype(np.float32))
    cache = open_cache(tmp_path / "every")
    assert len(steercache.open(cache.root).select("image_rows", site="vision_out")) == 6 * n_pictures
    assert not [f for step in verify_run(cache, cache.documents()[0].run_id) for f in step.findings]


@pytest.mark.parametrize(
    ("rows", "keeps"),
    [
        ({"policy": "image"}, "kind = 'image'"),
        ({"policy": "text"}, "kind = 'text'"),
        ({"policy": "roles", "roles": ["special", "image"]}, "kind in ('special', 'image')"),
        ({"policy": "roles", "roles": ["last"]}, "position = n_tokens - 1"),
    ],
)
def test_a_policy_keeps_the_rows_of_its_tokens_and_of_no_others(
    rows: dict[str, Any], keeps: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["idefics3"]
    whole = write_pictures_trace(folder, "idefics3", layers=[1]).cache(tmp_path / "whole")
    part = write_pictures_trace(folder, "idefics3", layers=[1], rows=rows).cache(tmp_path / "part")
    joined = "from tokens join samples using (run_id, shard_idx, sample_idx)"
    wanted = ask(whole, f"select sample_idx, position, row_idx {joined} where {keeps} order by all")
    kept = ask(part, "select sample_idx, position, row_idx from tokens where row_idx is not null order by all")
    assert [k[:2] for k in kept] == [w[:2] for w in wanted]
    got = newest(part).gather("resid_post", 1, np.array([k[2] for k in kept]))
    assert np.array_equal(got, newest(whole).gather("resid_post", 1, np.array([w[2] for w in wanted])))
    assert not newest(part).document.replayable


def test_a_picture_that_is_replaced_after_the_plan_is_not_traced_under_the_old_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, root = tmp_path / "t", tmp_path / "root"
    trace = write_pictures_trace(folder, "llava")
    before = (folder / "0.png").read_bytes()
    open_shard = RunWriter.open_shard

    def replace_picture(self: RunWriter, planned: Any) -> Any:
        """The shard's samples have been read and hashed; their pixels are decoded next."""
        (folder / "0.png").write_bytes(picture(*SIZES[0], seed=9).load())
        return open_shard(self, planned)

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "open_shard", replace_picture)
        with pytest.raises(DamagedError, match=r"0\.png has changed since its sample was encoded") as raised:
            trace.build(root)
    assert "data.jsonl:" in str(raised.value.place)
    (folder / "0.png").write_bytes(before)
    assert trace.build(root).n_shards_built == 1


def test_a_site_of_pictures_is_refused_for_a_text_model(tmp_path: Path) -> None:
    for sites in (["vision_out"], ["resid_post", "connector_out"]):
        with pytest.raises(UsageError, match=f"reads no pictures: it has no {sites[-1]}"):
            write_small_trace(tmp_path / "t", n=4, sites=sites).build(tmp_path / "root")
