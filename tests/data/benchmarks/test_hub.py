"""The hub's way through the real `datasets` library: a local folder under the hub's name stands in for the network."""

from pathlib import Path

import datasets
import huggingface_hub
import pytest

from steercache.core.errors import ManifestError, NotFoundError
from steercache.data.benchmarks import open_benchmark
from tests.data.benchmarks.layouts import (
    BLINK,
    CLEVR_COUNT,
    CV_BENCH,
    WHATSUP,
    blink_row,
    cv_row,
    png,
    stored,
    whatsup_captions,
    write_table,
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `datasets` takes a folder of the set's name before it asks the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return tmp_path


def _card(folder: Path, configs: dict[str, tuple[str, str]]) -> None:
    lines = ["---", "configs:"]
    for name, (split, pattern) in configs.items():
        lines += [f"- config_name: {name}", "  data_files:", f"  - split: {split}", f"    path: {pattern}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def test_cv_bench_from_the_hub_equals_the_folder(hub: Path) -> None:
    home = hub / "nyu-visionx" / "CV-Bench"
    _card(home, {'"2D"': ("test", "test_2d.parquet"), '"3D"': ("test", "test_3d.parquet")})
    write_table(home / "test_2d.parquet", [cv_row(i, "Relation") for i in range(20)], CV_BENCH)
    write_table(home / "test_3d.parquet", [cv_row(i, "Depth", image=None) for i in range(3)], CV_BENCH)
    ours = open_benchmark("cv-bench", home, rule="paper")
    theirs = open_benchmark("cv-bench", rule="paper")
    assert [e.text for e in theirs.examples] == [e.text for e in ours.examples]
    assert [e.labels for e in theirs.examples] == [e.labels for e in ours.examples]
    assert [e.images[0].load() for e in theirs.examples] == [png(i) for i in range(20)]
    assert [f.kind for f in theirs.failures] == ["missing_image"] * 3
    assert theirs.failures[0].place == "nyu-visionx/CV-Bench/test:1"


def test_whatsup_blink_and_clevr_counting_come_from_the_hub_too(hub: Path) -> None:
    home = hub / "ServiceNow" / "whatsup_controlled_images_b_inference_test"
    _card(home, {"default": ("Controlled_Images_B", "data/*.parquet")})
    captions = whatsup_captions("b", 1, 2)
    row = {"image_options": stored(4), "caption_options": captions, "TARGET": 0}
    write_table(home / "data" / "Controlled_Images_B-00000-of-00001.parquet", [row] * 2, WHATSUP)
    assert open_benchmark("whatsup-b").examples[1].labels.choices == (*captions[1:], captions[0])

    home = hub / "BLINK-Benchmark" / "BLINK"
    _card(home, {"Jigsaw": ("val", "Jigsaw/val-*.parquet")})
    write_table(home / "Jigsaw" / "val-00000-of-00001.parquet", [blink_row(2, n_images=3)], BLINK)
    (example,) = open_benchmark("blink", task="Jigsaw").examples
    assert [i.load() for i in example.images] == [png(21), png(22), png(23)]

    home = hub / "BUAADreamer" / "clevr_count_70k"
    _card(home, {"default": ("test", "data/test-*.parquet")})
    row = {"images": [stored(9)], "problem": "<image>How many?", "answer": "5"}
    write_table(home / "data" / "test-00000-of-00001.parquet", [row], CLEVR_COUNT)
    (example,) = open_benchmark("clevr-count").examples
    assert (example.images[0].load(), example.labels.answer) == (png(9), "5")


def test_a_set_of_other_columns_under_the_hubs_name_is_refused(hub: Path) -> None:
    home = hub / "nyu-visionx" / "CV-Bench"
    _card(home, {'"2D"': ("test", "test_2d.parquet")})
    write_table(home / "test_2d.parquet", [blink_row(0)], BLINK)
    with pytest.raises(ManifestError) as caught:
        open_benchmark("cv-bench-2d")
    assert {"task", "image", "filename"} <= {p.loc for p in caught.value.problems}


def test_a_hub_that_does_not_answer_is_not_found_with_a_way_out(hub: Path) -> None:
    with pytest.raises(NotFoundError, match="folder"):
        open_benchmark("cv-bench-2d")
