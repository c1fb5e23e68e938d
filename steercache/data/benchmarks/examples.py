"""Questions as the inputs that a model reads."""

from collections.abc import Sequence
from dataclasses import replace

from steercache.core.examples import Example, Labels
from steercache.data.benchmarks.questions import INSTRUCTIONS, BenchmarkQuestion


def as_example(name: str, row: BenchmarkQuestion, split: str | None) -> Example:
    """A question as the input that a model reads, under the instruction of its kind."""
    meta = {"benchmark": name, "task": row.task, "kind": row.kind, "prompt": row.prompt, **row.meta}
    return Example(
        dataset=name,
        place=row.place,
        text=under_instruction(INSTRUCTIONS[row.kind], row.prompt),
        images=row.images,
        labels=Labels(
            split=split,
            question=row.question,
            choices=row.choices,
            answer=row.answer,
            group_id=row.group_id,
            meta=meta,
        ),
    )


def with_counts(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Questions for a bare number offer no choices: what a right count is told apart from are the counts of the whole set."""
    asked = [e.labels.meta["kind"] == "count" for e in examples]
    counts = sorted({str(e.labels.answer) for e, is_count in zip(examples, asked, strict=True) if is_count}, key=int)
    return tuple(
        replace(e, labels=replace(e.labels, meta={**e.labels.meta, "counts": counts})) if is_count else e
        for e, is_count in zip(examples, asked, strict=True)
    )


def under_instruction(instruction: str, prompt: str) -> str:
    """What a model reads; the shipped models were trained on this form."""
    return f"{instruction}\n{prompt}" if instruction else prompt
