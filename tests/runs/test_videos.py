"""Videos of a data set in the cache: their tokens have frames, their rows are those of a plain forward."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from steercache.core.errors import SteercacheError
from steercache.core.examples import Example, ImageRef, VideoRef
from steercache.models.load import load_model
from steercache.trace.batches import pad_batch
from steercache.trace.encode import encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_images import picture, write_tiny_images
from tests.trace.test_videos import SAID, plain_states
from tests.tracing import SmallTrace

FRAMES = ("0.png", "1.png", "2.png")
ROWS = (("The cat is on the table", FRAMES), ("Two dogs ran", FRAMES[::-1]), ("A sentence", None))


FAMILIES = [
    pytest.param(family, marks=[] if family == "qwen3_vl" else pytest.mark.slow)
    for family in ("qwen3_vl", "qwen2_vl", "qwen2_5_vl", "glm4v", "glm46v")
]


def write_trace(folder: Path, *, family: str = "qwen3_vl", **trace: object) -> SmallTrace:
    """Model, frames, texts and manifest, as files."""
    write_tiny_images(family, folder / "model")
    (folder / "model" / "video_preprocessor_config.json").write_text(json.dumps(SAID))
    for i, name in enumerate(FRAMES):
        (folder / name).write_bytes(picture(48, 32, seed=i).load())
    lines = [json.dumps({"text": text, "frames": frames}) for text, frames in ROWS]
    (folder / "data.jsonl").write_text("\n".join(lines))
    source = {"type": "jsonl", "path": "data.jsonl", "columns": {"video": "frames"}}
    where = {"type": "path", "folder": "model"}
    model = {"kind": "model", "version": 1, "name": "tiny", "attention": "eager", "source": where}
    manifest = {
        "kind": "trace",
        "version": 1,
        "name": "videos",
        "model": model,
        "datasets": [{"kind": "dataset", "version": 1, "name": "clips", "source": source, "video_fps": 4}],
        "numerics": {"tokens_per_batch": 1, "threads": 1},
        **trace,
    }
    (folder / "trace.yaml").write_text(json.dumps(manifest))
    return SmallTrace(folder=folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_over_videos_has_their_tokens_and_rows(family: str, tmp_path: Path) -> None:
    trace = write_trace(tmp_path, family=family, rows={"policy": "roles", "roles": ["video", "text"]})
    cache = trace.cache(tmp_path / "root")
    source = cache.source(cache.documents()[0].run_id)
    loaded = load_model(manifest_of(tmp_path / "model"), cache_dir=tmp_path / "models", device="cpu")
    with cache.connection() as con:
        for index, (text, names) in enumerate(ROWS):
            refs = tuple(ImageRef(name=n, load=(tmp_path / n).read_bytes) for n in names or ())
            videos = (VideoRef(name="v", frames=refs, fps=4),) if refs else ()
            sample = encode_example(Example(dataset="clips", place="here", text=text, videos=videos), loaded.bundle)
            found = con.execute(
                "SELECT kind::VARCHAR, tile, frame, patch_row, patch_col, row_idx, s.sample_id FROM tokens t"
                f" JOIN samples s USING (run_id, sample_idx) WHERE sample_idx = {index} ORDER BY position"
            ).fetchall()
            assert {row[6] for row in found} == {sample.sample_id}
            places = np.stack([sample.tile, sample.frames, sample.patch_row, sample.patch_col], axis=1)
            assert [list(row[1:5]) for row in found] == places.tolist()
            kept = [i for i, row in enumerate(found) if row[5] is not None]
            assert [found[i][0] in ("video", "text") for i in range(len(found))] == [
                i in kept for i in range(len(found))
            ]
            expected = plain_states(loaded, sample)[1][0]
            rows = source.gather("resid_post", 1, np.array([found[i][5] for i in kept]))
            assert np.array_equal(rows, expected[kept].numpy())
        by_frame = con.execute("SELECT frame, count(*) FROM tokens WHERE kind = 'video' GROUP BY ALL ORDER BY ALL")
        assert by_frame.fetchall() == [(0, 2 * 6), (2, 2 * 6)]  # 32 x 48 pixels, squares of 16, two videos


def test_a_cell_that_is_no_list_of_frames_is_named(tmp_path: Path) -> None:
    trace = write_trace(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"text": "a", "frames": "0.png"}\n{"text": "b", "frames": []}')
    with pytest.raises(SteercacheError) as caught:
        trace.cache(tmp_path / "root")
    assert "must be a list of pictures" in str(caught.value)
    assert "has no frames" in str(caught.value)


def test_batches_of_pictures_and_videos_keep_each_ones_pixels(tmp_path: Path) -> None:
    write_trace(tmp_path)
    bundle = load_model(manifest_of(tmp_path / "model"), cache_dir=tmp_path / "models", device="cpu").bundle
    refs = tuple(ImageRef(name=n, load=(tmp_path / n).read_bytes) for n in FRAMES)
    asked = (
        Example(dataset="d", place="here", text="The cat", videos=(VideoRef(name="v", frames=refs),)),
        Example(dataset="d", place="here", text="The cat", images=refs[:1]),
    )
    samples = [encode_example(one, bundle) for one in asked]
    batch = pad_batch(samples, padding_side="left", pad_id=0)
    assert set(batch.pixels) == {"pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"}
    for sample in samples:
        for name, value in (sample.pixels() if sample.pixels else {}).items():
            assert torch.equal(batch.pixels[name], value)
