"""What evaluations are tried on: the shipped tiny models, vectors fitted on the text one, and drawn questions."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache import zoo
from steercache.cells.options import ComputeOptions, ControlOptions, DecodingOptions, EvalOptions, GridAxes
from steercache.core.vectors import SteeringVector
from steercache.fit import mean_shift
from steercache.queries.session import Session, open_session
from tests.tracing import write_small_trace

ANCHORS = {
    "spatial_relationship": ("left", "right", "above", "below"),
    "counting": ("one", "two", "three", "four"),
    "attribute": ("red", "blue", "green", "yellow"),
    "entity": ("star", "circle", "square", "heart"),
}
FRAMES = {
    "spatial_relationship": "The cat is {} of the {}.",
    "counting": "There are {} cats near the {}.",
    "attribute": "The dog has a {} {}.",
    "entity": "A {} is under the {}.",
}
THINGS = ("box", "table", "chair", "tree")


def rows() -> list[dict[str, str]]:
    """Sentences of four concepts, each with the word that carries it."""
    return [
        {"text": FRAMES[concept].format(word, thing), "anchor": word, "concept": concept}
        for concept, words in ANCHORS.items()
        for word in words
        for thing in THINGS
    ]


def write_text_run(folder: Path, root: Path) -> Session:
    """A cache with one run of tiny-backbone and a mean-shift vector per concept."""
    zoo.build("tiny-backbone", folder / "backbone")
    source = {"type": "jsonl", "path": "rows.jsonl", "columns": {"anchor": "anchor", "concept": "concept"}}
    trace = write_small_trace(
        folder,
        model={
            "kind": "model",
            "version": 1,
            "name": "tiny-backbone",
            "source": {"type": "path", "folder": "backbone"},
        },
        datasets=[{"kind": "dataset", "version": 1, "name": "words", "source": source}],
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    trace.build(root)
    session = open_session(root)
    for concept in ANCHORS:
        session.save(mean_shift(session.select("anchor_vs_control", concept=concept)))
    return session


def options(**changes: Any) -> EvalOptions:
    """One setting on text tokens, a few questions and controls; what is chosen is not run on unrelated prompts."""
    known: dict[str, Any] = {
        "layers": (2,),
        "alphas": (4.0,),
        "targets": ("text",),
        "n": 14,
        "controls": 4,
        "max_new_tokens": 3,
        "tokens_per_batch": 900,
        "damage": False,
    }
    return eval_options(**(known | changes))


def eval_options(**flat: Any) -> EvalOptions:
    """Options whose parts are written side by side; `controls` is their number, `control_kinds` their kinds."""
    flat |= {new: flat.pop(old) for old, new in (("controls", "count"), ("control_kinds", "kinds")) if old in flat}
    parts = {"axes": GridAxes, "decoding": DecodingOptions, "compute": ComputeOptions, "controls": ControlOptions}
    made: dict[str, Any] = {
        part: kind(**{f.name: flat.pop(f.name) for f in fields(kind) if f.name in flat}) for part, kind in parts.items()
    }
    return EvalOptions(**made, **flat)


def vector(values: npt.NDArray[np.float32], *, name: str = "made", **provenance: Any) -> SteeringVector:
    """A vector of no known origin for layers 0 to l - 1, from rows (l, d)."""
    return SteeringVector(
        name=name,
        method="made",
        concept=None,
        site="resid_post",
        layers=tuple(range(len(values))),
        values=values,
        provenance=provenance,
    )
