"""Held-out scores of a model of the zoo: `python -m bench.zoo.evaluate demo --out scores.json`.

Fresh scenes of a seed that no training used, the canonical instructions, greedy answers through the ordinary processor. Every
cell is measured three times: unchanged, with the pictures shuffled across its questions, and on the shifted set.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.zoo.drift import drift
from bench.zoo.turns import make_turn
from steercache.core.errors import SteercacheError
from steercache.data.scenes import SceneExample, Task, make_example
from steercache.data.scenes.questions import AnswerForm
from steercache.zoo.shelf import build, names

SEED: Final = 9_000_001
CELLS: Final[tuple[tuple[Task, AnswerForm], ...]] = (
    ("Relation", "word"),
    ("Relation", "letter"),
    ("Count", "number"),
    ("Count", "letter"),
    ("Attribute", "word"),
    ("Attribute", "letter"),
    ("Entity", "word"),
    ("Entity", "letter"),
)
CONDITIONS: Final = ("plain", "shuffled", "shifted")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScore:
    """One cell: how many of n questions (each with a picture of its own) were answered right, and which answers were given."""

    n: int
    n_right: int
    confusion: dict[str, dict[str, int]]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.n_right / self.n

    @property
    def error(self) -> float:
        """Standard error of the accuracy: sqrt(p (1 - p) / n)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.n)

    def to_json(self) -> dict[str, Any]:
        """As the card's JSON has it."""
        numbers = {"n": self.n, "accuracy": round(self.accuracy, 4), "standard_error": round(self.error, 4)}
        return {**numbers, "confusion": self.confusion}


def evaluate(folder: Path, *, n: int, batch: int = 20) -> dict[str, dict[str, CellScore]]:
    """Scores by condition and cell (`Relation/word`) of the checkpoint in a folder."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processors: Any = AutoProcessor
    processor = processors.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    model.eval()
    found: dict[str, dict[str, CellScore]] = {}
    for condition in CONDITIONS:
        for task, form in CELLS:
            size = n if task in ("Relation", "Count") else n // 2
            size = size if condition == "plain" else size // 2
            examples = held_out(task, size, shifted=condition == "shifted")
            images = [example.image() for example in examples]
            if condition == "shuffled":
                images = images[1:] + images[:1]
            score = _score(model, processor, examples, images, form, batch)
            found.setdefault(condition, {})[f"{task}/{form}"] = score
            print(f"{condition} {task}/{form} {score.accuracy:.3f} ({score.error:.3f}) n={score.n}", flush=True)
    return found


def held_out(task: Task, n: int, *, shifted: bool = False) -> list[SceneExample]:
    """`n` questions of one task, each about another picture."""
    return [make_example(SEED, 2 * i, tasks=[task], shifted=shifted) for i in range(n)]


def put(processor: Any, body: str) -> str:
    """The prompt text of either family: Idefics3's chat turn, or PaliGemma's task prefix."""
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": body}]
        text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return text
    return f"<image>answer en {body}"


def _score(
    model: Any, processor: Any, examples: Sequence[SceneExample], images: Sequence[Any], form: AnswerForm, batch: int
) -> CellScore:
    turns = [make_turn(example.question, form) for example in examples]
    said: list[str] = []
    for first in range(0, len(turns), batch):
        some = slice(first, first + batch)
        texts = [put(processor, turn.body) for turn in turns[some]]
        said += _answers(model, processor, texts, list(images[some]))
    confusion: dict[str, Counter[str]] = {}
    for turn, words in zip(turns, said, strict=True):
        confusion.setdefault(turn.answer, Counter())[words] += 1
    right = sum(words == turn.answer for turn, words in zip(turns, said, strict=True))
    table = {wanted: dict(counts.most_common()) for wanted, counts in sorted(confusion.items())}
    return CellScore(n=len(turns), n_right=right, confusion=table)


def _answers(model: Any, processor: Any, texts: list[str], images: list[Any]) -> Iterator[str]:
    processor.tokenizer.padding_side = "left"
    inputs = processor(text=texts, images=[[image] for image in images], padding=True, return_tensors="pt")
    inputs.pop("labels", None)
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    new = out[:, inputs["input_ids"].shape[1] :]
    yield from (text.strip() for text in processor.batch_decode(new, skip_special_tokens=True))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one line per cell."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo.evaluate", description=__doc__)
    parser.add_argument("name", choices=[name for name in names() if not name.endswith("backbone")])
    parser.add_argument(
        "--n", type=int, default=300, help="questions per cell (colours and shapes, shuffled and shifted: half)"
    )
    parser.add_argument("--folder", type=Path, help="an assembled folder; without it, one is built for the occasion")
    parser.add_argument("--backbone", type=Path, help="its assembled text backbone, likewise")
    parser.add_argument("--out", type=Path, help="where the numbers go as JSON")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = args.folder or build(args.name, Path(scratch) / args.name)
            found = evaluate(folder, n=args.n)
            moved = drift(args.backbone or build(f"{args.name}-backbone", Path(scratch) / "backbone"), folder)
    except SteercacheError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    data = {c: {cell: score.to_json() for cell, score in cells.items()} for c, cells in found.items()}
    if args.out:
        args.out.write_text(
            json.dumps({"seed": SEED, "drift": moved, "scores": data}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
