"""Small sets written with exactly the columns and types of the public ones, in the folders a download makes."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CV_BENCH = pa.schema(
    [
        ("idx", pa.int64()),
        ("type", pa.string()),
        ("task", pa.string()),
        ("image", PICTURE),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("prompt", pa.string()),
        ("filename", pa.string()),
        ("source", pa.string()),
        ("source_dataset", pa.string()),
        ("source_filename", pa.string()),
        ("target_class", pa.string()),
        ("target_size", pa.int64()),
        ("bbox", pa.list_(pa.list_(pa.float64()))),
    ]
)
WHATSUP = pa.schema([("image_options", PICTURE), ("caption_options", pa.list_(pa.string())), ("TARGET", pa.int64())])
BLINK = pa.schema(
    [
        ("idx", pa.string()),
        ("question", pa.string()),
        ("sub_task", pa.string()),
        *[(f"image_{i}", PICTURE) for i in range(1, 5)],
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("prompt", pa.string()),
        ("explanation", pa.string()),
    ]
)
CLEVR_COUNT = pa.schema([("images", pa.list_(PICTURE)), ("problem", pa.string()), ("answer", pa.string())])


def png(shade: int, *, kind: str = "PNG") -> bytes:
    """A small picture; every shade is another file."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, shade // 256 % 256, 7)).save(buffer, format=kind)
    return buffer.getvalue()


def stored(shade: int) -> dict[str, Any]:
    return {"bytes": png(shade), "path": f"picture_{shade}.png"}


def cv_row(idx: int, task: str, **changes: Any) -> dict[str, Any]:
    choices = ["left", "right"] if task == "Relation" else ["2", "0", "3", "1"]
    question = f"Question {idx} about {task.lower()}?"
    options = "\n".join(f"({'ABCD'[i]}) {c}" for i, c in enumerate(choices))
    row = {
        "idx": idx,
        "type": "2D" if task in ("Relation", "Count") else "3D",
        "task": task,
        "image": stored(idx),
        "question": question,
        "choices": choices,
        "answer": f"({'AB'[idx % 2]})",
        "prompt": f"{question} Select from the following choices.\n{options}",
        "filename": f"img/{task.lower()}/{idx}.png",
        "source": "COCO",
        "source_dataset": "COCO",
        "source_filename": f"{idx // 2:06d}.jpg",
        "target_class": None,
        "target_size": None,
        "bbox": None,
    }
    return row | changes


def write_table(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema, *, group: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, row_group_size=group)


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


ARRANGEMENTS = {
    "a": ("on", "under", "to the left of", "to the right of"),
    "b": ("in front of", "behind", "to the left of", "to the right of"),
}


def whatsup_captions(variant: str, set_no: int, which: int) -> list[str]:
    """Four captions, the right one (arrangement number `which`) first, as upstream writes them."""
    words = [*ARRANGEMENTS[variant][which:], *ARRANGEMENTS[variant][:which]]
    return [f"A thing {set_no} {word} a table {set_no}" for word in words]


def blink_row(i: int, *, n_images: int = 1, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "idx": f"val_Spatial_Relation_{i}",
        "question": f"Is thing {i} under the chair?",
        "sub_task": "Spatial_Relation",
        **{f"image_{k}": stored(10 * i + k) if k <= n_images else None for k in range(1, 5)},
        "choices": ["yes", "no"],
        "answer": f"({'AB'[i % 2]})",
        "prompt": f"Is thing {i} under the chair?\nSelect from the following choices.\n(A) yes\n(B) no\n",
        "explanation": "",
    }
    return row | changes
