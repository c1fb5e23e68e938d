"""The shipped colour sentences: the same frames for every colour, so that two colours' anchors differ in nothing else."""

from collections import Counter, defaultdict

from steercache.core.shipped import shipped_folder
from steercache.data import open_dataset
from steercache.data.scenes import COLOURS
from steercache.manifests.dataset import DatasetManifest
from steercache.manifests.load import find_manifest, read_manifest


def test_every_frame_holds_every_colour_of_the_scenes_once_and_nothing_else_changes() -> None:
    path = find_manifest("colours", kind="dataset")
    assert path.is_relative_to(shipped_folder("manifests"))
    manifest = read_manifest(path, kind="dataset")
    assert isinstance(manifest, DatasetManifest)
    examples = list(open_dataset(manifest, base_dir=path.parent))
    assert Counter(e.labels.concept for e in examples) == dict.fromkeys(COLOURS, 16)
    frames = defaultdict(set)
    for example in examples:
        ((start, end),) = example.labels.anchors
        assert example.text[start:end] == example.labels.concept
        assert start > 0
        before = example.text[:start].removesuffix("n ").removesuffix(" ")  # an orange, a red
        before = before if before.lower().endswith("a") else example.text[:start].rstrip()
        frames[example.labels.group_id].add((before, example.text[end:]))
    assert [len(forms) for forms in frames.values()] == [1] * 16
