"""Rows to examples: which cell is the input, which are labels about it, and where the anchor stands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steercache.core.errors import Problem
from steercache.core.examples import Example, FirstPosition, ImageRef, Labels, SoundRef, VideoRef
from steercache.core.excerpts import excerpt
from steercache.data.anchors import Span, find_anchors, words_around
from steercache.data.cells import Cells
from steercache.data.inside import read_inside, resolve_inside
from steercache.data.rows import Row
from steercache.manifests.dataset import Columns, DatasetManifest, PairColumns

_File = tuple[str, Callable[[], bytes]]  # its name, for messages, and what reads it
RowReader = Callable[[Row], list[Example] | list[Problem]]  # one row's examples, or everything that is wrong with it


def wanted_columns(columns: Columns | PairColumns) -> tuple[str, ...]:
    """Every column that is read, once each, in a fixed order."""
    named = columns.model_dump(exclude={"meta"}).values()
    return tuple(dict.fromkeys([*(name for name in named if name is not None), *getattr(columns, "meta", ())]))


def row_reader(manifest: DatasetManifest, columns: Columns, folder: Path | None) -> RowReader:
    """Reads one row as one example; paths of pictures stay inside `folder`, and without one name nothing."""
    chat = manifest.chat is not None and manifest.chat.apply
    system = manifest.chat.system if manifest.chat else None

    def read(row: Row) -> list[Example] | list[Problem]:
        cells = Cells(row)
        text = cells.text(columns.text)
        example = Example(
            dataset=manifest.name,
            place=row.place,
            text=text,
            system=cells.label(columns.system) or system,
            completion=cells.label(columns.completion) or "",
            chat=chat,
            images=tuple(ImageRef(name=n, load=f) for n, f in _files(cells, columns.image, folder, "image", "picture")),
            sounds=tuple(SoundRef(name=n, load=f) for n, f in _files(cells, columns.audio, folder, "audio", "sound")),
            videos=_videos(cells, columns.video, folder, fps=manifest.video_fps),
            first_position=_first_position(manifest),
            labels=Labels(
                concept=cells.label(columns.concept) or manifest.concept,
                split=cells.label(columns.split),
                question=cells.label(columns.question),
                choices=cells.texts(columns.choices),
                answer=cells.label(columns.answer, numbers=True),
                group_id=cells.label(columns.group, numbers=True),
                pair_id=cells.label(columns.pair, numbers=True),
                polarity=cells.polarity(columns.polarity),
                anchors=_anchors(cells, manifest, columns.anchor, text) if columns.anchor else (),
                controls=True if columns.anchor and manifest.anchors == "optional" else None,
                meta=cells.meta(columns.meta),
            ),
        )
        return cells.problems or [example]

    return read


def pair_reader(manifest: DatasetManifest, columns: PairColumns) -> RowReader:
    """Reads one row as the two examples of a contrastive pair, the positive one first.

    What counts is the last token of each, which queries pick by position: no span of the text names it, since a chat template
    may end after the text.
    """
    chat = manifest.chat is not None and manifest.chat.apply
    system = manifest.chat.system if manifest.chat else None

    def read(row: Row) -> list[Example] | list[Problem]:
        cells = Cells(row)
        prompt = cells.text(columns.prompt) if columns.prompt else ""
        concept = cells.label(columns.concept) or manifest.concept
        split, group = cells.label(columns.split), cells.label(columns.group, numbers=True)
        pair, sides = f"{manifest.name}:{row.line}", []
        for polarity, side_column, system_column in (
            (1, columns.positive, columns.system_positive),
            (-1, columns.negative, columns.system_negative),
        ):
            side = cells.text(side_column) if side_column else ""
            side_system = cells.text(system_column) if system_column else None
            labels = Labels(concept=concept, split=split, group_id=group or pair, pair_id=pair, polarity=polarity)
            example = Example(
                dataset=manifest.name,
                place=row.place,
                text=prompt if columns.prompt else side,
                system=side_system or system,
                completion=side if columns.prompt else "",
                chat=chat,
                labels=labels,
            )
            sides.append(example)
        if not cells.problems and _input(sides[0]) == _input(sides[1]):
            cells.problem(columns.positive or "", "pair", "both sides are the same")
        return cells.problems or sides

    return read


def _input(example: Example) -> tuple[str | None, str, str]:
    return example.system, example.text, example.completion


def _anchors(cells: Cells, manifest: DatasetManifest, column: str, text: str) -> tuple[Span, ...]:
    """Spans of the row's anchor; what is wrong with it is noted."""
    optional = manifest.anchors == "optional"
    anchor = (cells.label(column) if optional else cells.text(column)) or ""
    if not anchor or not text:
        return ()
    spans = find_anchors(text, anchor)
    if not spans:
        parts = words_around(text, anchor)
        if parts:
            message = f"{excerpt(anchor)} stands only inside another word: {', '.join(map(excerpt, parts[:3]))}"
            cells.problem(column, "anchor_inside_word", message)
        else:
            cells.problem(column, "anchor_missing", f"{excerpt(anchor)} is not in the text: {excerpt(text)}")
        return ()
    chat = manifest.chat is not None and manifest.chat.apply
    if not chat and _first_position(manifest) == "refuse" and not text[: spans[0][0]].strip():
        # whether a BOS stands before it is the tokenizer's to say: what is let pass here, the encoder checks again
        message = f"{excerpt(anchor)} is the first word, the attention sink unless a BOS or a picture stands before it"
        ways = "`first_position: allow` takes it nevertheless, `anchors: optional` leaves the first token out"
        cells.problem(column, "anchor_first", f"{message} ({ways}): {excerpt(text)}")
    return spans


def _first_position(manifest: DatasetManifest) -> FirstPosition:
    """What an anchor on the first token is: where anchors are optional, a sentence can do without this one."""
    if manifest.first_position == "allow":
        return "allow"
    return "leave_out" if manifest.anchors == "optional" else "refuse"


def _files(cells: Cells, column: str | None, folder: Path | None, kind: str, noun: str) -> list[_File]:
    """The pictures or sounds of a cell; what is wrong with one is noted."""
    if column is None:
        return []
    value = cells.raw(column)
    values = value if isinstance(value, list) else [value] if value is not None else []
    return [found for item in values if (found := _file(cells, column, item, folder, kind, noun)) is not None]


def _videos(cells: Cells, column: str | None, folder: Path | None, *, fps: float) -> tuple[VideoRef, ...]:
    """Videos as the lists of their frames; what is wrong with one is noted."""
    value = cells.raw(column) if column is not None else None
    if column is None or value is None:
        return ()
    if not isinstance(value, list):
        cells.problem(column, "video", "must be a list of pictures, the video's frames, or a list of such lists")
        return ()
    videos = value if value and all(isinstance(one, list) for one in value) else [value]
    found = []
    for number, frames in enumerate(videos):
        files = [file for one in frames if (file := _file(cells, column, one, folder, "image", "picture")) is not None]
        if files:
            images = tuple(ImageRef(name=n, load=f) for n, f in files)
            found.append(VideoRef(name=f"{cells.row.place}:{column}[{number}]", frames=images, fps=fps))
        elif not frames:
            cells.problem(column, "video", "has no frames")
    return tuple(found)


def _file(cells: Cells, column: str, value: Any, folder: Path | None, kind: str, noun: str) -> _File | None:
    place = cells.row.place
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
    if isinstance(data, bytes):
        name = path if isinstance(path, str) and path is not value else f"{place}:{column}"
        return name, lambda: data
    if not isinstance(path, str):
        cells.problem(column, kind, "must be a path, bytes, or a struct of both")
        return None
    found = resolve_inside(folder, path) if folder is not None else f"a {noun} from the hub must come with its bytes"
    if folder is None or isinstance(found, str):
        cells.problem(column, kind, f"{excerpt(path)}: {found}")
        return None
    return path, lambda: read_inside(folder, path, place=place)
