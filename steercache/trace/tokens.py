"""Text to tokens: their ids, their characters, and which of them mark structure."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.examples import BoolArray, IntArray
from steercache.models.spec import TokenizerBundle

Spans = npt.NDArray[np.int32]  # (t, 2)

KEPT_TEXTS: Final = 4096  # a build reads what its plan has read: some 20 MiB spare it tokenizing this many texts twice
KEPT_LENGTH: Final = 512
BLANK_MARKS: Final = frozenset("\u2581\u0120")  # how sentencepiece and byte-level vocabularies write a blank


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTokens:
    """The tokens of a text, in read-only arrays.

    `spans` has shape (t, 2), its characters without blanks at their ends, -1 where a token has none; `special` (t,) marks what
    the tokenizer added by itself and every token of structure.
    """

    ids: IntArray
    spans: Spans
    special: BoolArray


def tokens_of(text: str, bundle: TokenizerBundle, *, add_special: bool) -> TextTokens:
    """The tokens of a text, which may be none; those of the first texts are kept with the bundle."""
    key = (text, add_special)
    found: TextTokens | None = bundle.tokens.get(key)
    if found is None:
        found = _tokenize(text, bundle, add_special=add_special)
        if len(bundle.tokens) < KEPT_TEXTS and len(found.ids) <= KEPT_LENGTH:
            bundle.tokens[key] = found
    return found


def _tokenize(text: str, bundle: TokenizerBundle, *, add_special: bool) -> TextTokens:
    backend: Any = bundle.tokenizer.backend_tokenizer
    if (
        backend.truncation is not None or backend.padding is not None
    ):  # some repositories save these with the vocabulary
        backend.no_truncation()
        backend.no_padding()
    encoding = backend.encode(text, add_special_tokens=add_special)
    ids = np.array(encoding.ids, dtype=np.int32)
    added = np.array(encoding.special_tokens_mask, dtype=bool)
    spans = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    for i, (start, end) in enumerate(encoding.offsets):
        if start < end and (text[start].isspace() or text[end - 1].isspace()):
            spans[i] = _without_spaces(text, start, end)
    spans[added | _dummy_prefixes(encoding.tokens, encoding.offsets, text)] = -1
    special = added | (ids[:, None] == np.array(bundle.special_ids, dtype=np.int32)).any(axis=1)
    for array in (ids, spans, special):
        array.setflags(write=False)
    return TextTokens(ids=ids, spans=spans, special=special)


def _dummy_prefixes(pieces: list[str], offsets: list[tuple[int, int]], text: str) -> BoolArray:
    """TextTokens (t,) that stand for a blank where the text has none.

    That is the mark which sentencepiece, and byte-level tokenizers with `add_prefix_space`, put before a text; it is a token of
    its own where it joins no word (Chinese, Japanese, ...). Tokenizers give it no characters, or those of the next token.
    """
    found: BoolArray = np.zeros(len(pieces), dtype=bool)
    for i, (piece, (start, end)) in enumerate(zip(pieces, offsets, strict=True)):
        if piece in BLANK_MARKS:
            near = text[start:end] if start < end else text[max(start - 1, 0) : start + 1]
            shared = start == end or (i + 1 < len(offsets) and offsets[i + 1][0] == start)
            found[i] = shared and not any(c.isspace() or c == piece for c in near)
    return found


def _without_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without blanks at its ends, as some tokenizers give it and others do not; blanks alone stay as they are."""
    piece = text[start:end]
    if piece.isspace():
        return start, end
    return end - len(piece.lstrip()), start + len(piece.rstrip())
