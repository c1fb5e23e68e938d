"""What'sUp A and B (controlled pictures of two things): upstream's JSON beside pictures, and the copy on the hub.

The right caption stands first in the files, so the options are turned by the row's number, as published: row i shows them
from position i mod 4 on. Each pair of things was photographed in four arrangements: `meta["set_id"]` names the pair of
things and `meta["relation"]` the arrangement, both read off the captions, for the pair and
set accuracies (benchmarks/whatsup.py). Pictures of one pair of things are one group: the grouped split cuts no set, and
intervals take a set, whose pictures and captions are alike, as one.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from steercache.core.examples import ImageRef
from steercache.data.benchmarks.columns import PICTURES
from steercache.data.benchmarks.questions import BenchmarkQuestion, FailedRow, Row, letter_of
from steercache.data.benchmarks.source import (
    BenchmarkFiles,
    HubPart,
    find_files,
    json_rows,
    picture_failure,
    table_rows,
)
from steercache.data.benchmarks.tables import StoredPicture, TableRow, picture_in_folder

Variant = Literal["a", "b"]
TASK: Final = "Relation"
N_OPTIONS: Final = 4
UPSTREAM: Final[Mapping[Variant, tuple[str, ...]]] = MappingProxyType(
    {
        "a": ("controlled_images_dataset.json", "data/controlled_images_dataset.json"),
        "b": ("controlled_clevr_dataset.json", "data/controlled_clevr_dataset.json"),
    }
)
COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {"image_options": PICTURES, "caption_options": "list of texts", "TARGET": "integer"}
)


def read_whatsup(source: BenchmarkFiles, variant: Variant) -> Iterator[Row]:
    """Rows from upstream's JSON if the folder has it, from the hub copy's Parquet files or the hub otherwise.

    Raises:
        NotFoundError, ManifestError: as `table_rows` and `json_rows`.
    """
    if source.folder is not None:
        found = next((source.folder / name for name in UPSTREAM[variant] if (source.folder / name).is_file()), None)
        if found is not None:
            yield from _read_upstream(source, source.folder, found)
            return
    split = f"Controlled_Images_{variant.upper()}"
    part = HubPart(
        hub_id=f"ServiceNow/whatsup_controlled_images_{variant}_inference_test",
        split=split,
        files=(f"data/{split}-*.parquet", f"{split}*.parquet"),
    )
    if source.folder is not None:
        find_files(source.folder, (*UPSTREAM[variant], *part.files))  # so that the message names both layouts
    for i, row in enumerate(table_rows(source, [part], COLUMNS)):
        yield _from_hub(row, i)


def _read_upstream(source: BenchmarkFiles, folder: Path, file: Path) -> Iterator[Row]:
    for i, row in enumerate(json_rows(file, ("image_path", "caption_options"))[: source.limit]):
        place = f"{file.name}:{i + 1}"
        if not isinstance(row, dict) or not isinstance(row.get("image_path"), str):
            yield FailedRow(place=place, kind="missing_value", message="image_path is missing or no text", task=TASK)
            continue
        path = _upstream_path(folder, row["image_path"])
        yield _question(place, i, row.get("caption_options"), 0, picture_in_folder(folder, path))


def _upstream_path(folder: Path, image_path: str) -> str:
    """Upstream's paths begin with the name of its own data folder, which may be the folder given."""
    head, _, tail = image_path.partition("/")
    if head == "data" and tail and not (folder / "data").is_dir():
        return tail
    return image_path


def _from_hub(row: TableRow, i: int) -> Row:
    pictures = row.pictures["image_options"]
    if len(pictures) != 1:
        message = f"one picture was expected, the row has {len(pictures)}"
        return FailedRow(place=row.place, kind="missing_image", message=message, task=TASK)
    return _question(row.place, i, row.labels["caption_options"], row.labels["TARGET"], pictures[0])


def _question(place: str, i: int, captions: Any, target: int | None, picture: StoredPicture) -> Row:
    if not isinstance(captions, list) or len(captions) != N_OPTIONS or not all(isinstance(c, str) for c in captions):
        message = f"{N_OPTIONS} captions were expected, found {captions!r:.80}"
        return FailedRow(place=place, kind="missing_value", message=message, task=TASK)
    if target is None or not 0 <= target < N_OPTIONS:
        return FailedRow(place=place, kind="bad_answer", message=f"TARGET {target!r} is no option", task=TASK)
    failed = picture_failure([picture], place, TASK)
    if failed or picture.image is None or picture.digest is None:
        return failed or FailedRow(place=place, kind="missing_image", message="no picture", task=TASK)
    return _turned(place, i, captions, target, picture.image, picture.digest)


def _turned(place: str, i: int, captions: list[str], target: int, image: ImageRef, digest: str) -> BenchmarkQuestion:
    shift = i % N_OPTIONS
    shown = (*captions[shift:], *captions[:shift])
    set_id, relations = split_captions(captions)
    options = "\n".join(f"({letter_of(k)}) {caption}" for k, caption in enumerate(shown))
    question = "Which caption fits the picture?"
    return BenchmarkQuestion(
        place=place,
        kind="choice",
        task=TASK,
        question=question,
        prompt=f"{question}\n{options}",
        choices=shown,
        answer=letter_of((target - shift) % N_OPTIONS),
        group_id=set_id if set_id.strip(" …") else digest,  # captions that share no word name no things
        images=(image,),
        meta={"set_id": set_id, "relation": relations[target], "row": i},
    )


def split_captions(captions: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The words that all captions share (which things) and what each says in between (how they stand).

    >>> split_captions(["A mug on a plate", "A mug to the left of a plate"])
    ('A mug … a plate', ('on', 'to the left of'))
    """
    words = [caption.split() for caption in captions]
    shortest = min(len(w) for w in words)
    head = 0
    while head < shortest and len({w[head] for w in words}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head - 1 and len({w[-1 - tail] for w in words}) == 1:
        tail += 1
    first = words[0]
    set_id = f"{' '.join(first[:head])} … {' '.join(first[len(first) - tail :])}"
    return set_id, tuple(" ".join(w[head : len(w) - tail]) for w in words)
