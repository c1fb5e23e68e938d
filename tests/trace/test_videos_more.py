"""Videos of Qwen2-VL, Qwen2.5-VL and GLM-4V: tokens, grids, positions, pixels and steering, against transformers.

Their video processors need torchvision, which is not here; their text, sizes, patches and models do not.
"""

import functools
import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.video_utils import VideoMetadata

import steercache
from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.models.video_settings import FRAMES, VideoSettings, read_video_settings
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture, model_inputs
from steercache.trace.encode import encode_example
from steercache.trace.videos import patches_of_frames
from tests.models.tiny import manifest_of
from tests.models.tiny_images import GLM, N_LAYERS, PATCH, WIDTH, picture, write_tiny_images
from tests.steering.small import directions
from tests.steering.test_branch import full_logits
from tests.steering.tiny import vector
from tests.trace.test_images import IMAGE, blind_tower
from tests.trace.test_videos import VIDEO, example, noise, plain_states, video_of

FAMILIES = [
    pytest.param(family, marks=[pytest.mark.slow] if family in ("glm4v_moe", "glm46v") else [])
    for family in ("qwen2_vl", "qwen2_5_vl", "glm4v", "glm4v_moe", "glm46v")
]
WRAPPED = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), ("<|vision_start|>", "<|vision_end|>")),
    **dict.fromkeys(GLM, ("<|begin_of_video|>", "<|end_of_video|>")),
}
SAID = {
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "size": {"shortest_edge": 2 * 16 * 16, "longest_edge": 3 * 48 * 48},
    "image_mean": [0.5] * 3,
    "image_std": [0.4] * 3,
}
# Frames, height, width, and the grids that transformers 5.23 with torchvision 0.28 makes of them under these settings.
GRIDS = {
    "qwen": {
        (2, 50, 80): (1, 6, 10),
        (5, 90, 30): (3, 12, 4),
        (3, 200, 300): (2, 8, 12),
        (8, 17, 23): (4, 4, 4),
        (1, 32, 32): (1, 4, 4),
        (2, 12, 12): (1, 4, 4),
        (6, 300, 40): (3, 28, 2),
    },
    "glm": {
        (2, 50, 80): (1, 4, 8),
        (5, 90, 30): (3, 8, 2),
        (3, 200, 300): (2, 4, 6),
        (8, 17, 23): (4, 2, 2),
        (2, 12, 12): (1, 2, 2),
        (6, 300, 40): (3, 10, 2),
    },
}
_LOADED: dict[str, LoadedModel] = {}


def load(family: str, folder: Path) -> LoadedModel:
    write_tiny_images(family, folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(SAID))
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype="float32")


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    family = str(request.param)
    if family not in _LOADED:
        _LOADED[family] = load(family, tmp_path_factory.mktemp(family))
    return _LOADED[family]


def grids_of(family: str) -> dict[tuple[int, int, int], tuple[int, int, int]]:
    return GRIDS["glm" if family in GLM else "qwen"]


def said_by_transformers(loaded: LoadedModel, n: int, grid: tuple[int, int, int], fps: float) -> str:
    """What its processor writes in the place of one video."""
    kind: Any = type(loaded.processor)
    made = SimpleNamespace(video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2))
    for name in ("image_token", "video_token"):
        setattr(made, name, getattr(loaded.processor, name))
    if hasattr(kind, "replace_frame_token_id"):
        made.replace_frame_token_id = functools.partial(kind.replace_frame_token_id, made)
    metadata = VideoMetadata(total_num_frames=n, fps=fps, frames_indices=list(range(n)))
    return str(
        kind.replace_video_token(made, {"video_grid_thw": torch.tensor([grid]), "video_metadata": [metadata]}, 0)
    )


def resized_by_transformers(family: str, n: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a frame, by the function that the family's video processor has a copy of."""
    limits: dict[str, Any] = {
        "factor": 2 * PATCH,
        "min_pixels": SAID["size"]["shortest_edge"],  # type: ignore[index]
        "max_pixels": SAID["size"]["longest_edge"],  # type: ignore[index]
    }
    if family in GLM:
        module: Any = importlib.import_module("transformers.models.glm4v.image_processing_pil_glm4v")
        return module.smart_resize(n, height, width, temporal_factor=2, **limits)  # type: ignore[no-any-return]
    module = importlib.import_module("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    return module.smart_resize(height, width, **limits)  # type: ignore[no-any-return]


def test_tokens_grids_and_places_are_those_of_the_processor(loaded: LoadedModel) -> None:
    family = loaded.spec.family
    start, end = WRAPPED[family]
    for (n, height, width), grid in grids_of(family).items():
        high, wide = resized_by_transformers(family, n, height, width)
        assert (-(-n // 2), high // PATCH, wide // PATCH) == grid, (n, height, width)
        sample = encode_example(example("The cat is", video_of(noise(n, height, width), fps=0.7)), loaded.bundle)
        text = said_by_transformers(loaded, n, grid, 0.7)
        expected = loaded.tokenizer(f"{start}{text}{end}The cat is")["input_ids"]
        assert sample.input_ids.tolist() == expected
        types = loaded.processor.create_mm_token_type_ids([expected])[0]  # type: ignore[union-attr]
        assert sample.extra["mm_token_type_ids"].tolist() == list(types)
        is_video = sample.kind == VIDEO
        assert is_video.sum() == np.prod(grid) // 4
        assert not (sample.kind == IMAGE).any()
        places = np.stack([sample.tile, sample.frames, sample.patch_row, sample.patch_col], axis=1)
        assert (places[~is_video] == -1).all()
        down, across = grid[1] // 2, grid[2] // 2
        lines = [(0, 2 * t, row, col) for t in range(grid[0]) for row in range(down) for col in range(across)]
        assert places[is_video].tolist() == [list(one) for one in lines]
        pixels = sample.pixels() if sample.pixels else {}
        assert pixels["video_grid_thw"].tolist() == [list(grid)]
        assert ("second_per_grid_ts" in pixels) == (family == "qwen2_5_vl")
        if family == "qwen2_5_vl":
            assert pixels["second_per_grid_ts"].tolist() == pytest.approx([2 / 0.7])
        kinds = sample.kind[[sample.char_start[i] == -1 and not is_video[i] for i in range(sample.n_tokens)]]
        assert set(kinds.tolist()) <= {1}  # what stands between frames is structure, not text


@pytest.mark.parametrize("per_frame", [True, False])
def test_patches_are_those_of_transformers(per_frame: bool) -> None:
    """Qwen2-VL's own class cannot be imported without torchvision; this one cuts frames as it does."""
    module: Any = importlib.import_module("transformers.models.glm4v.video_processing_glm4v")
    pictures = [PIL.Image.fromarray(frame) for frame in noise(5, 50, 80)]
    settings = VideoSettings(patch=PATCH, fewest=2 * 16 * 16, most=6 * 96 * 96, per_frame=per_frame)
    patches, grid = patches_of_frames(pictures, settings)
    high, wide = grid[1] * PATCH, grid[2] * PATCH
    resized = [np.asarray(frame.resize((wide, high), PIL.Image.Resampling.BICUBIC)) for frame in pictures]
    values = (torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected, *theirs = module.Glm4vVideoProcessor.patchify(SimpleNamespace(), values[None], PATCH, 2, 2)
    assert tuple(theirs) == grid
    torch.testing.assert_close(torch.from_numpy(patches), expected[0], atol=1e-6, rtol=0)


def test_settings_are_those_of_the_class_and_older_names_of_limits_are_read(tmp_path: Path) -> None:
    for frames, (name, kind) in {
        "numbered": ("glm4v", "Glm4vVideoProcessor"),
        "timed": ("qwen3_vl", "Qwen3VLVideoProcessor"),
    }.items():
        module: Any = importlib.import_module(f"transformers.models.{name}.video_processing_{name}")
        theirs, ours = getattr(module, kind), FRAMES[frames]
        assert (ours.patch, ours.per_patch, ours.merge) == (14 if frames != "timed" else 16, 2, 2)
        assert (theirs.patch_size, theirs.temporal_patch_size) == (ours.patch, ours.per_patch)
        assert theirs.size == {"shortest_edge": ours.fewest, "longest_edge": ours.most}
        assert tuple(theirs.image_mean) == ours.mean
        assert tuple(theirs.image_std) == ours.std
    qwen2 = FRAMES["joined"]  # as its class has them, which cannot be imported here
    assert (qwen2.patch, qwen2.fewest, qwen2.most, qwen2.most_tokens) == (14, 100_352, 602_112, 128_000)
    assert (qwen2.mean, qwen2.std) == (FRAMES["numbered"].mean, FRAMES["numbered"].std)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 3136, "max_pixels": 12_845_056}))
    found = read_video_settings(tmp_path, "clocked")  # as Qwen2.5-VL's folders are
    assert found is not None
    assert (found.fewest, found.most, found.per_frame) == (3136, 12_845_056, True)


@pytest.mark.parametrize(  # as Qwen2-VL's processor of transformers 5.23 with torchvision 0.28 has it
    ("size", "grid"),
    [((100, 280, 280), (8, 8)), ((4, 280, 280), (20, 20)), ((30, 300, 500), (12, 20)), ((7, 1200, 90), (86, 6))],
)
def test_frames_of_many_are_small_where_the_checkpoint_caps_all_of_them(
    size: tuple[int, int, int], grid: tuple[int, int]
) -> None:
    said = {"size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 768 * 28 * 28}}
    settings = replace(FRAMES["joined"], fewest=said["size"]["shortest_edge"], capped=True, most_tokens=1000)
    assert settings.most == said["size"]["longest_edge"]
    assert settings.frame_size(*size) == (14 * grid[0], 14 * grid[1])


def test_rows_are_those_of_a_plain_forward_alone_and_beside_a_picture_under_either_padding(
    loaded: LoadedModel,
) -> None:
    asked = [
        example("The cat is on the table", video_of(noise(4, 50, 80)), video_of(noise(3, 32, 32, seed=1), fps=0.5)),
        *([] if loaded.spec.family in GLM else [example("The cat", images=(picture(50, 80),))]),
        example("Two dogs ran under the bridge"),
    ]
    samples = [encode_example(one, loaded.bundle) for one in asked]
    assert samples[0].tile[samples[0].kind == VIDEO].max() == 1
    expected = [plain_states(loaded, sample) for sample in samples]
    alone = capture(loaded, pad_batch(samples[:1], padding_side="left", pad_id=0), sites=["resid_post"], layers=[0, 1])
    for layer in range(N_LAYERS - 1):
        assert torch.equal(alone["resid_post"][layer], expected[0][layer])
    for side in ("left", "right"):
        batch = pad_batch(samples, padding_side=side, pad_id=0)  # type: ignore[arg-type]
        states = capture(loaded, batch, sites=["resid_post", "connector_out"], layers=[0, 1])
        for row, (start, n) in enumerate(zip(batch.starts, batch.lengths, strict=True)):
            for layer in range(N_LAYERS - 1):
                got = states["resid_post"][layer][row, start : start + n]
                torch.testing.assert_close(got, expected[row][layer][0], atol=5e-5, rtol=1e-3)
        known = ~states["connector_out"][0].isnan().all(-1)
        assert known.tolist() == torch.isin(batch.input_ids, torch.tensor(loaded.shown_ids)).tolist()


def test_pictures_and_videos_of_one_batch_are_refused_where_the_model_cannot_tell_them_apart(
    loaded: LoadedModel,
) -> None:
    asked = [example("The cat", video_of(noise(2, 32, 32))), example("The cat", images=(picture(32, 32),))]
    batch = pad_batch([encode_example(one, loaded.bundle) for one in asked], padding_side="left", pad_id=0)
    if loaded.spec.family not in GLM:
        capture(loaded, batch, sites=["resid_post"], layers=[1])
        return
    with pytest.raises(UsageError, match="pictures and videos of one batch"):
        capture(loaded, batch, sites=["resid_post"], layers=[1])


def test_a_dot_in_one_frame_moves_the_tokens_whose_frame_and_place_it_is(tmp_path: Path) -> None:
    for family in ("qwen2_5_vl", "glm4v"):  # with windows, and with rows of squares
        model = load(family, tmp_path / family)
        blind_tower(model.model)
        plain = np.full((6, 32, 48, 3), 100, dtype=np.uint8)
        for frame, (x, y) in ((0, (0.15, 0.2)), (3, (0.8, 0.7)), (5, (0.5, 0.9))):
            dotted = plain.copy()
            at_y, at_x = int(y * 32), int(x * 48)
            dotted[frame, max(at_y - 2, 0) : at_y + 3, at_x - 2 : at_x + 3] = 255
            rows, samples = [], list[EncodedSample]()
            for frames in (plain, dotted):
                samples.append(encode_example(example("The cat", video_of(frames)), model.bundle))
                batch = pad_batch(samples[-1:], padding_side="right", pad_id=0)
                states = capture(model, batch, sites=["connector_out"], layers=[])["connector_out"]
                rows.append(states[0][0].nan_to_num())
            sample, hit = samples[1], int((rows[1] - rows[0]).norm(dim=1).argmax())
            assert sample.frames[hit] == frame // 2 * 2
            n_rows, n_cols = int(sample.patch_row.max()) + 1, int(sample.patch_col.max()) + 1
            assert abs((sample.patch_col[hit] + 0.5) / n_cols - x) <= 0.5 / n_cols + 0.06
            assert abs((sample.patch_row[hit] + 0.5) / n_rows - y) <= 0.5 / n_rows + 0.06
            tower = capture(model, pad_batch([sample], padding_side="left", pad_id=0), sites=["vision_out"], layers=[])
            assert sample.patches is not None
            assert tower["vision_out"][0][..., 0].numel() == len(sample.patches())


def test_the_target_video_is_steered_and_pictures_are_not(loaded: LoadedModel) -> None:
    """GLM's frames are made of image tokens: those between the marks of a video are its."""
    samples = [
        encode_example(one, loaded.bundle)
        for one in (
            example("The cat is on it", video_of(noise(4, 32, 48))),
            example("The cat is on it", video_of(noise(4, 32, 48, seed=1))),
        )
    ]
    batch = pad_batch(samples, padding_side="left", pad_id=0)
    kinds = torch.full(batch.input_ids.shape, -1)
    for row, (sample, start) in enumerate(zip(samples, batch.starts, strict=True)):
        kinds[row, start:] = torch.from_numpy(sample.kind.astype(np.int64))
    v, hit = vector(1, width=WIDTH), kinds == VIDEO
    delta = torch.from_numpy(np.float32(0.7) * v.at(1))
    plain = capture(loaded, batch, sites=["resid_post"], layers=[1])["resid_post"][0]
    seen: list[torch.Tensor] = []
    block = loaded.model.model.language_model.layers[1]
    for target in ("video", "sql: kind = 'video'"):
        seen.clear()
        with steercache.steer(loaded, v, layer=1, alpha=0.7, target=target), torch.no_grad():
            handle = block.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
            loaded.model(**model_inputs(loaded, batch))
            handle.remove()
        assert torch.equal(seen[0][hit], (plain + delta)[hit]), target
        assert torch.equal(seen[0][~hit], plain[~hit]), target
    still = encode_example(example("The cat", images=(picture(48, 32),)), loaded.bundle)
    one = pad_batch([still], padding_side="left", pad_id=0)
    with (
        pytest.raises(UsageError, match="selects no token"),
        steercache.steer(loaded, v, layer=1, alpha=0.7, target="video"),
        torch.no_grad(),
    ):
        loaded.model(**model_inputs(loaded, one))


def test_branches_are_the_full_steered_forward(loaded: LoadedModel) -> None:
    samples = [encode_example(example("The cat", video_of(noise(4, 32, 48, seed=s))), loaded.bundle) for s in range(2)]
    batch = pad_batch(samples, padding_side="left", pad_id=0)
    cells = [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=directions(1)[0], target=target)
        for target, layer in (("video", 0), ("text", 1), ("last", 2))
    ]
    for answer in branch(loaded, batch, cells, BranchOptions(max_new_tokens=1, same_batch=True)):
        assert answer.mode == "branch"
        cell = next(one for one in cells if one.key == answer.key)
        assert torch.equal(answer.logits_bv, full_logits(loaded, batch, cell)), answer.key
