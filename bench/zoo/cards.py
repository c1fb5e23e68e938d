"""The tables of a model card, written from the measured numbers: `python -m bench.zoo.cards` renews them in place."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steercache.zoo.shelf import DEMO, TINY

START: Final = "<!-- tables: written by bench.zoo.cards from scores.json -->"
CHANCE: Final = {"Relation": "1/2", "Count": "1/4 shown, 1/5 of all", "Attribute": "1/4", "Entity": "1/4"}


def tables(scores: Mapping[str, Any]) -> str:
    """Accuracy by cell and condition, drift, and the confusion tables, as Markdown."""
    lines = [
        f"Held-out seed {scores['seed']}; accuracy (standard error); n questions, each about a picture of its own.",
        "",
        "| task / answer | n | scenes | pictures shuffled | scenes-shifted | chance |",
        "|---|---|---|---|---|---|",
    ]
    plain = scores["scores"]["plain"]
    for cell in plain:
        each = [scores["scores"][condition][cell] for condition in ("plain", "shuffled", "shifted")]
        n = " / ".join(str(one["n"]) for one in each)
        shown = " | ".join(_with_error(one) for one in each)
        lines.append(f"| {cell} | {n} | {shown} | {CHANCE[cell.split('/')[0]]} |")
    drift = scores["drift"]
    cosines = drift["cosine_by_layer"]
    lines += [
        "",
        f"Drift from the text backbone, 8 sentences: mean cosine of block outputs {cosines[0]:.3f} at block 0, "
        f"{cosines[len(cosines) // 2]:.3f} in the middle, {min(cosines):.3f} at the worst; "
        f"next-token loss {drift['loss_backbone']:.2f} before, {drift['loss_in_mllm']:.2f} after.",
    ]
    for cell, score in plain.items():
        lines += ["", f"Confusion, {cell} (rows: right answer; said: how often)", ""]
        for wanted, said in score["confusion"].items():
            shown = ", ".join(f"{word or '(nothing)'}: {n}" for word, n in said.items())
            lines.append(f"- {wanted}: {shown}")
    return "\n".join(lines) + "\n"


def renew(shelf: Path) -> None:
    """Replaces everything after the marker in `card.md` by the tables of `scores.json`."""
    scores = json.loads((shelf / "scores.json").read_text(encoding="utf-8"))
    path = shelf / "card.md"
    prose = path.read_text(encoding="utf-8").split(START)[0]
    path.write_text(f"{prose}{START}\n\n{tables(scores)}", encoding="utf-8")


def _with_error(score: Mapping[str, Any]) -> str:
    return f"{score['accuracy']:.3f} ({score['standard_error']:.3f})"


if __name__ == "__main__":
    for one in (TINY, DEMO):
        renew(one)
    sys.exit(0)
