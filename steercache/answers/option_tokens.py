"""The tokens that an answer's margin tells apart: the first ones of the options, and which of them is right."""

from collections.abc import Sequence
from typing import Any

from steercache.benchmarks.task import EncodedQuestion
from steercache.core.ids import SHORT_ID, digest


def option_ids(one: EncodedQuestion, tokenizer: Any) -> list[int]:
    """First tokens of the options, the right one first; none where the answer is no option or two begin alike."""
    options = answer_options(one, tokenizer)
    if options is None:
        return []
    ids, right = options
    return [ids[right], *ids[:right], *ids[right + 1 :]]


def answer_options(one: EncodedQuestion, tokenizer: Any) -> tuple[tuple[int, ...], int] | None:
    """First tokens of the options in the question's order, and which is right; None as `option_ids` has none.

    The options of a question for a bare number are the counts of its set that are one token.
    """
    answer, texts = one.labels.answer, list(one.labels.choices)
    if one.kind == "choice":
        texts = [chr(ord("A") + i) for i in range(len(texts))]
    if one.kind == "count":
        counts = [str(count) for count in one.labels.meta.get("counts", ())]
        texts = [text for text in counts if len(tokenizer.encode(text, add_special_tokens=False)) == 1]
    if len(texts) < 2 or answer not in texts:
        return None
    ids = [tokenizer.encode(text, add_special_tokens=False)[:1] for text in texts]
    firsts = [token[0] for token in ids if token]
    return (tuple(firsts), texts.index(answer)) if len(set(firsts)) == len(texts) else None


def margin_of(ids: Sequence[int]) -> str | None:
    """Identity of the options of a margin, from `option_ids`: a digest of the right token and the others; None without."""
    return digest([ids[0], sorted(ids[1:])])[:SHORT_ID] if ids else None


def margins_wanted(asked: Sequence[EncodedQuestion], tokenizer: Any) -> dict[str, str | None]:
    """By sample id, what the margins of these questions are of."""
    return {one.sample_id: margin_of(option_ids(one, tokenizer)) for one in asked if one.encoded is not None}
