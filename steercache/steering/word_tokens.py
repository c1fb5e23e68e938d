"""Words as single tokens, whose probability can be read off one forward pass."""

from collections.abc import Sequence
from typing import Any, Literal

from steercache.core.errors import UsageError
from steercache.models.spec import LoadedModel

Forms = Literal["spaced", "any"]


def word_tokens(
    loaded: LoadedModel, words: Sequence[str], *, forms: Forms = "spaced"
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Token ids of every word that is a single token, and the words that are not; no id belongs to two words.

    "spaced" looks at the word behind a space only. A word of several tokens would count every word that begins like it. Raises
    UsageError when none is left.
    """
    found: dict[str, tuple[int, ...]] = {}
    taken: set[int] = set()
    for word in dict.fromkeys(words):
        written = [word] if forms == "spaced" else [word, word.capitalize()]
        ids = [_spaced_id(loaded, form) for form in written]
        if forms == "any":
            ids += [_bare_id(loaded, form) for form in written]
        new = tuple(dict.fromkeys(i for i in ids if i is not None and i not in taken))
        if new:
            found[word] = new
            taken.update(new)
    if not found:
        raise UsageError(f"none of the words is a single token: {', '.join(words)}")
    return found, tuple(word for word in words if word not in found)


def _spaced_id(loaded: LoadedModel, word: str) -> int | None:
    tokenizer: Any = loaded.tokenizer
    before, after = tokenizer("The")["input_ids"], tokenizer(f"The {word}")["input_ids"]
    return _single(tokenizer, after[len(before) :]) if after[: len(before)] == before else None


def _bare_id(loaded: LoadedModel, word: str) -> int | None:
    """The word's token at the beginning of an answer, no space before it."""
    return _single(loaded.tokenizer, loaded.tokenizer(word, add_special_tokens=False)["input_ids"])


def _single(tokenizer: Any, ids: Sequence[int]) -> int | None:
    return int(ids[0]) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None
