"""Videos in prompts, as lists of frames: tokens, grids, pixels and values against transformers and a plain forward.

Its video processor needs torchvision, which is not here; its text, its sizes and its patches do not.
"""

import functools
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.video_utils import VideoMetadata

import steercache
from steercache.core.errors import UsageError
from steercache.core.examples import TOKEN_KINDS, EncodedSample, Example, ImageRef, VideoRef
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.models.video_settings import VideoSettings
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture
from steercache.trace.encode import EncodingProblem, encode_example, patches_of
from steercache.trace.videos import patches_of_frames
from tests.models.tiny import manifest_of
from tests.models.tiny_images import N_LAYERS, PATCH, WIDTH, picture, write_tiny_images, written
from tests.steering.tiny import vector
from tests.trace.test_images import blind_tower

VIDEO, SPECIAL = TOKEN_KINDS.index("video"), TOKEN_KINDS.index("special")
SAID = {
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "size": {"shortest_edge": 2 * 16 * 16, "longest_edge": 6 * 96 * 96},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
# Frames, height, width, and the grid that transformers 5.23 with torchvision 0.28 makes of them under these settings.
GRIDS = {
    (2, 50, 80): (1, 6, 10),
    (5, 90, 30): (3, 12, 4),
    (3, 200, 300): (2, 12, 20),
    (8, 17, 23): (4, 2, 2),
    (2, 12, 12): (1, 2, 2),
    (6, 300, 40): (3, 32, 4),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = write_tiny_images("qwen3_vl", tmp_path_factory.mktemp("videos"))
    (found / "video_preprocessor_config.json").write_text(json.dumps(SAID))
    return found


@functools.cache
def load(folder: Path) -> LoadedModel:
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype="float32")


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def video_of(frames: np.ndarray, fps: float = 2.0) -> VideoRef:
    refs = [ImageRef(name=f"{i}.png", load=functools.partial(png, frame)) for i, frame in enumerate(frames)]
    return VideoRef(name="v", frames=tuple(refs), fps=fps)


def noise(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def example(text: str, *videos: VideoRef, **fields: Any) -> Example:
    return Example(dataset="d", place="d.jsonl:3", text=text, videos=videos, **fields)


def said_by_transformers(loaded: LoadedModel, n: int, grid: tuple[int, int, int], fps: float) -> str:
    """What its processor writes in the place of one video."""
    made = SimpleNamespace(video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2))
    kind: Any = type(loaded.processor)
    for name in ("vision_start_token", "vision_end_token", "video_token"):
        setattr(made, name, getattr(loaded.processor, name))
    made._calculate_timestamps = functools.partial(kind._calculate_timestamps, made)
    metadata = VideoMetadata(total_num_frames=n, fps=fps, frames_indices=list(range(n)))
    inputs = {"video_grid_thw": torch.tensor([grid]), "video_metadata": [metadata]}
    return str(kind.replace_video_token(made, inputs, 0))


@pytest.mark.parametrize(("size", "grid"), GRIDS.items())
def test_tokens_and_grids_are_those_of_the_processor(
    size: tuple[int, int, int], grid: tuple[int, int, int], folder: Path
) -> None:
    loaded, (n, height, width) = load(folder), size
    limits = {"min_pixels": 2 * 16 * 16, "max_pixels": 6 * 96 * 96}
    high, wide = smart_resize(n, height, width, temporal_factor=2, factor=2 * PATCH, **limits)
    assert (-(-n // 2), high // PATCH, wide // PATCH) == grid
    sample = encode_example(example("The cat is", video_of(noise(*size), fps=1.5)), loaded.bundle)
    text = said_by_transformers(loaded, n, grid, 1.5)
    expected = loaded.tokenizer(f"<|vision_start|>{text}<|vision_end|>The cat is")["input_ids"]
    assert sample.input_ids.tolist() == expected
    is_video = sample.input_ids == loaded.config.video_token_id
    assert ((sample.kind == VIDEO) == is_video).all()
    assert (sample.extra["mm_token_type_ids"] == 2 * is_video).all()
    assert is_video.sum() == np.prod(grid) // 4
    shown = [sample.text[a:b] for a, b in zip(sample.char_start, sample.char_end, strict=True) if a >= 0]
    assert "".join(shown) == "<|vision_start|><|vision_end|>Thecatis"  # blanks are outside of spans
    assert (sample.char_start[is_video] == -1).all()
    inserted = ~is_video & (sample.char_start == -1)  # the times of the frames are structure, not text
    assert inserted.any()
    assert (sample.kind[inserted] == SPECIAL).all()
    pixels = sample.pixels() if sample.pixels else {}
    assert pixels["video_grid_thw"].tolist() == [list(grid)]
    places = np.stack([sample.tile, sample.frames, sample.patch_row, sample.patch_col], axis=1)
    assert (places[~is_video] == -1).all()
    lines = [(0, 2 * t, row, col) for t in range(grid[0]) for row in range(grid[1] // 2) for col in range(grid[2] // 2)]
    assert places[is_video].tolist() == [list(one) for one in lines]


def test_a_prompt_of_a_chat_has_the_video_where_the_template_puts_it(folder: Path) -> None:
    loaded = load(folder)
    mark, text = "<|vision_start|><|video_pad|><|vision_end|>", "The cat is"
    loaded.processor.chat_template = (  # type: ignore[union-attr]
        "{% for m in messages %}<|{{ m['role'] }}|>{% for p in m['content'] %}{% if p['type'] == 'video' %}"
        + mark
        + "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}<|assistant|>"
    )
    sample = encode_example(example(text, video_of(noise(4, 32, 32)), chat=True), loaded.bundle)
    replaced = said_by_transformers(loaded, 4, (2, 4, 4), 2.0)
    expected = f"<|user|><|vision_start|>{replaced}<|vision_end|>{text}<|assistant|>"
    assert sample.input_ids.tolist() == loaded.tokenizer(expected)["input_ids"]
    assert sample.text == f"<|user|>{mark}{text}<|assistant|>"


@pytest.mark.parametrize("size", [(4, 64, 64), (5, 50, 80)])
def test_patches_are_those_of_transformers(size: tuple[int, int, int]) -> None:
    frames = [PIL.Image.fromarray(frame) for frame in noise(*size)]
    settings = VideoSettings(patch=PATCH, fewest=2 * 16 * 16, most=6 * 96 * 96)
    patches, grid = patches_of_frames(frames, settings)
    high, wide = grid[1] * PATCH, grid[2] * PATCH
    resized = [np.asarray(frame.resize((wide, high), PIL.Image.Resampling.BICUBIC)) for frame in frames]
    values = (torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected, *theirs = Qwen3VLVideoProcessor.patchify(SimpleNamespace(), values[None], PATCH, 2, 2)
    assert tuple(theirs) == grid
    torch.testing.assert_close(torch.from_numpy(patches), expected[0], atol=1e-6, rtol=0)


def test_two_frames_of_one_picture_are_that_picture(folder: Path) -> None:
    ref, images = picture(48, 80), load(folder).processor.image_processor  # type: ignore[union-attr]
    frame = PIL.Image.open(io.BytesIO(ref.load())).convert("RGB")
    settings = VideoSettings(patch=PATCH, fewest=2 * 16 * 16, most=2 * 96 * 96)
    patches, grid = patches_of_frames([frame, frame], settings)
    still = images(images=[frame], return_tensors="pt")
    assert still["image_grid_thw"].tolist() == [list(grid)]
    torch.testing.assert_close(torch.from_numpy(patches), still["pixel_values"], atol=1e-6, rtol=0)


@torch.no_grad()
def plain_states(loaded: LoadedModel, sample: EncodedSample) -> list[torch.Tensor]:
    """Block outputs of the model itself on one prompt, the last one missing."""
    inputs = {"input_ids": sample.input_ids, "attention_mask": np.ones_like(sample.input_ids)} | dict(sample.extra)
    tensors = {name: torch.from_numpy(x.astype(np.int64))[None] for name, x in inputs.items()}
    out = loaded.model(**tensors, **(sample.pixels() if sample.pixels else {}), output_hidden_states=True)
    return list(out.hidden_states[1:-1])


def test_rows_are_those_of_a_plain_forward_alone_and_beside_a_picture_under_either_padding(folder: Path) -> None:
    loaded = load(folder)
    asked = [
        example("The cat is on the table", video_of(noise(4, 50, 80)), video_of(noise(3, 32, 32, seed=1))),
        example("The cat", images=(picture(50, 80),)),
        example("Two dogs ran under the bridge"),
    ]
    samples = [encode_example(one, loaded.bundle) for one in asked]
    assert [sample.n_videos for sample in samples] == [2, 0, 0]
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
        with pytest.raises(UsageError, match="pictures and videos of a batch"):
            capture(loaded, batch, sites=["vision_out"], layers=[])
        known = ~states["connector_out"][0].isnan().all(-1)
        assert known.tolist() == torch.isin(batch.input_ids, torch.tensor(loaded.shown_ids)).tolist()


def test_qwen3_5_reads_videos_too(tmp_path: Path) -> None:
    folder = write_tiny_images("qwen3_5", tmp_path / "model")
    (folder / "video_preprocessor_config.json").write_text(json.dumps(SAID))
    loaded = load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype="float32")
    asked = example("The cat is on the table", video_of(noise(4, 50, 80)))
    sample = encode_example(asked, loaded.bundle)
    expected = plain_states(loaded, sample)
    batch = pad_batch([sample], padding_side="left", pad_id=0)
    states = capture(loaded, batch, sites=["resid_post"], layers=[0, 1])["resid_post"]
    assert all(torch.equal(got, wanted) for got, wanted in zip(states, expected, strict=True))


def test_a_dot_in_one_frame_moves_the_tokens_whose_frame_and_place_it_is(folder: Path) -> None:
    loaded = load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu")
    blind_tower(loaded.model)
    plain = np.full((6, 64, 96, 3), 100, dtype=np.uint8)
    for frame, (x, y) in ((0, (0.15, 0.2)), (3, (0.8, 0.6)), (5, (0.5, 0.9))):
        dotted = plain.copy()
        at_y, at_x = int(y * 64), int(x * 96)
        dotted[frame, max(at_y - 3, 0) : at_y + 4, at_x - 3 : at_x + 4] = 255
        rows = []
        for frames in (plain, dotted):
            sample = encode_example(example("The cat", video_of(frames)), loaded.bundle)
            batch = pad_batch([sample], padding_side="right", pad_id=0)
            rows.append(capture(loaded, batch, sites=["connector_out"], layers=[])["connector_out"][0][0].nan_to_num())
        hit = int((rows[1] - rows[0]).norm(dim=1).argmax())
        assert sample.frames[hit] == frame // 2 * 2
        assert abs((sample.patch_col[hit] + 0.5) / 6 - x) <= 0.5 / 6 + 0.06
        assert abs((sample.patch_row[hit] + 0.5) / 4 - y) <= 0.5 / 4 + 0.06


def test_rows_of_the_vision_tower_have_a_tile_for_every_pair_of_frames(folder: Path) -> None:
    loaded = load(folder)
    sample = encode_example(example("The cat", video_of(noise(4, 50, 80))), loaded.bundle)
    batch = pad_batch([sample], padding_side="left", pad_id=0)
    rows = capture(loaded, batch, sites=["vision_out"], layers=[])["vision_out"][0]
    patches = patches_of(sample)
    assert len(rows.reshape(-1, rows.shape[-1])) == patches.n_tokens == 2 * 6 * 10
    assert set(patches.kind) == {VIDEO}
    assert np.unique(patches.tile).tolist() == [0, 1]


def test_the_target_video_is_steered_and_nothing_else_moves(folder: Path) -> None:
    loaded = load(folder)
    asked = [example("The cat is on it", video_of(noise(4, 32, 48, seed=seed))) for seed in range(2)]
    samples = [encode_example(one, loaded.bundle) for one in asked]
    batch = pad_batch(samples, padding_side="left", pad_id=0)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.extra, **batch.pixels}
    v = vector(1, width=WIDTH)
    delta = torch.from_numpy(np.float32(0.7) * v.at(1))

    def outputs() -> torch.Tensor:
        return capture(loaded, batch, sites=["resid_post"], layers=[1])["resid_post"][0]

    seen: list[torch.Tensor] = []
    plain = outputs()
    video = batch.input_ids == loaded.config.video_token_id
    text = ~video & ~torch.isin(batch.input_ids, torch.tensor(loaded.bundle.special_ids))
    text[:, -1] = False
    targets: dict[Any, torch.Tensor] = {
        "video": video,
        "text": text,
        "both": video | text,
        "sql: kind = 'video'": video,
        "sql: kind = 'text' and from_end > 0": text,
    }
    for target, hit in targets.items():
        seen.clear()
        block = loaded.model.model.language_model.layers[1]
        with steercache.steer(loaded, v, layer=1, alpha=0.7, target=target):
            handle = block.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
            with torch.no_grad():
                loaded.model(**inputs)
            handle.remove()
        assert torch.equal(seen[0][hit], (plain + delta)[hit]), target
        assert torch.equal(seen[0][~hit], plain[~hit]), target


def test_the_id_of_a_sample_knows_frames_their_rate_and_how_they_are_prepared(folder: Path) -> None:
    bundle, frames = load(folder).bundle, noise(4, 32, 32)
    first = encode_example(example("The cat", video_of(frames)), bundle)
    assert encode_example(example("The cat", video_of(frames)), bundle).sample_id == first.sample_id
    assert bundle.video is not None
    brighter = replace(bundle, video=replace(bundle.video, mean=(0.4, 0.4, 0.4)))
    others = [
        encode_example(example("The cat", video_of(frames[::-1])), bundle),
        encode_example(example("The cat", video_of(frames, fps=2.01)), bundle),
        encode_example(example("The cat", video_of(frames)), brighter),
    ]
    assert len({first.sample_id, *(one.sample_id for one in others)}) == 4


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (example("a", video_of(noise(1, 32, 32))), "1 frames, and one patch is made of 2"),
        (example("a", replace(video_of(noise(2, 32, 32)), frames=())), "0 frames"),
        (example("a", video_of(noise(2, 20, 5000))), "too narrow"),
        (example("<|video_pad|><|video_pad|>a", video_of(noise(2, 32, 32))), "1 videos, 2 times"),
        (example("<|video_pad|>a"), "do not go together"),
        (example("a", video_of(noise(2, 32, 32)), images=(picture(32, 32),)), "pictures and videos"),
    ],
)
def test_what_cannot_be_read_is_said(asked: Example, words: str, folder: Path) -> None:
    with pytest.raises(EncodingProblem, match=words) as caught:
        encode_example(asked, load(folder).bundle)
    assert caught.value.kind == "images"


def test_frames_of_two_sizes_are_named(folder: Path) -> None:
    frames = (*video_of(noise(2, 32, 32)).frames, picture(40, 30))
    with pytest.raises(EncodingProblem, match=r"the frame 40x30\.png has 40 x 30 pixels, the first 32 x 32"):
        encode_example(example("a", VideoRef(name="v", frames=frames)), load(folder).bundle)


def test_models_and_checkpoints_that_read_no_videos_say_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    asked = example("a", video_of(noise(2, 32, 32)))
    for family, words in (("llava", "reads no videos here"), ("qwen3_vl", "does not say how it reads videos")):
        with pytest.raises(EncodingProblem, match=words):
            encode_example(asked, load(written(tmp_path_factory)[family]).bundle)
