"""The tokens of encoded prompts as a table: what a target written as SQL, or the rows of a fit, are chosen from.

Columns have the names that they have in the index. Only those that a clause names are made.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.core.errors import UsageError
from steercache.core.examples import TOKEN_KINDS, EncodedSample, IntArray

BEFORE_CHARS: Final = 200
_WORD: Final = re.compile(r"\w+(?:['\u2019]\w+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What is known of one sample's tokens, each array (t,); None: not known.

    `position` is given where the tokens are not the whole prompt. `generated` numbers a generated token from 0.
    """

    token_id: IntArray
    kind: npt.NDArray[np.int8]
    text: str | None = None
    char_start: IntArray | None = None
    char_end: IntArray | None = None
    tile: IntArray | None = None
    patch_row: IntArray | None = None
    patch_col: IntArray | None = None
    frame: IntArray | None = None
    time_ms: IntArray | None = None
    sample_id: str | None = None
    n_images: int | None = None
    n_videos: int | None = None
    n_sounds: int | None = None
    position: IntArray | None = None
    generated: int | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens of the sample."""
        return len(self.token_id)


def facts_of(sample: EncodedSample) -> TokenFacts:
    """What is known of an encoded sample."""
    return TokenFacts(
        token_id=sample.input_ids,
        kind=sample.kind,
        text=sample.text,
        char_start=sample.char_start,
        char_end=sample.char_end,
        tile=sample.tile,
        patch_row=sample.patch_row,
        patch_col=sample.patch_col,
        frame=sample.frames,
        time_ms=sample.times_ms,
        sample_id=sample.sample_id,
        n_images=len(sample.image_digests) - sample.n_videos - sample.n_sounds,
        n_videos=sample.n_videos,
        n_sounds=sample.n_sounds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: what it says, and how it is made of samples and their tokenizer."""

    meaning: str
    make: Callable[[Sequence[TokenFacts], Any], Any]


def token_columns(words: frozenset[str], samples: Sequence[TokenFacts], tokenizer: Any = None) -> dict[str, Any]:
    """The columns among `words`, and `position`, of samples one after another.

    Raises:
        UsageError: a column that is not known of these samples.
    """
    wanted = [name for name in COLUMNS if name in words or name == "position"]
    return {name: COLUMNS[name].make(samples, tokenizer) for name in wanted}


def _joined(name: str) -> Callable[[Sequence[TokenFacts], Any], Any]:
    def make(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
        parts = [_known(getattr(one, name), name) for one in samples]
        return pa.array(np.concatenate(parts).astype(np.int32))

    return make


def _known(value: Any, name: str) -> Any:
    if value is None:
        raise UsageError(
            f"the column {name} is not known from token ids alone",
            hint="plan the target over the encoded prompts: steercache.plan_target(model, target, prompts)",
        )
    return value


def _of_sample(name: str) -> Callable[[Sequence[TokenFacts], Any], Any]:
    def make(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
        values = pa.array([_known(getattr(one, name), name) for one in samples])
        return values.take(_sample_of(samples))

    return make


def _position(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
    parts = [np.arange(one.n_tokens) if one.position is None else one.position for one in samples]
    return pa.array(np.concatenate(parts).astype(np.int32))


def _n_tokens(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
    values = pa.array([None if one.position is not None else one.n_tokens for one in samples], type=pa.int32())
    return values.take(_sample_of(samples))


def _sample_of(samples: Sequence[TokenFacts]) -> Any:
    return pa.array(np.repeat(np.arange(len(samples)), [one.n_tokens for one in samples]))


def _from_end(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
    parts = [np.arange(one.n_tokens)[::-1] for one in samples]
    generated = np.repeat([one.generated is not None for one in samples], [one.n_tokens for one in samples])
    return pa.array(np.concatenate(parts).astype(np.int32), mask=generated)


def _generated(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
    values = pa.array([one.generated for one in samples], type=pa.int32())
    return values.take(_sample_of(samples))


def _kind(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
    codes = np.concatenate([one.kind for one in samples]).astype(np.int8)
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(TOKEN_KINDS))


def _piece(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
    if tokenizer is None:
        raise UsageError("the column piece needs the model's tokenizer", hint="give the tokenizer, or use token_id")
    unique, inverse = np.unique(np.concatenate([one.token_id for one in samples]), return_inverse=True)
    return pa.array(tokenizer.convert_ids_to_tokens(unique.tolist()), type=pa.string()).take(pa.array(inverse))


def _per_token(
    name: str, texts: Callable[[TokenFacts], list[str | None]]
) -> Callable[[Sequence[TokenFacts], Any], Any]:
    def make(samples: Sequence[TokenFacts], tokenizer: Any) -> Any:
        for one in samples:
            _known(one.text, name)
        return pa.array(list(chain.from_iterable(texts(one) for one in samples)), type=pa.string())

    return make


def _spans(one: TokenFacts) -> list[tuple[int, int, int]]:
    """(token, start, end) of the tokens with characters."""
    start, end = _known(one.char_start, "char_start"), _known(one.char_end, "char_end")
    at = np.flatnonzero(end > start)
    return list(zip(at.tolist(), start[at].tolist(), end[at].tolist(), strict=True))


def _texts(one: TokenFacts) -> list[str | None]:
    found: list[str | None] = [None] * one.n_tokens
    for at, start, end in _spans(one):
        found[at] = str(one.text)[start:end]
    return found


def _words_of(one: TokenFacts) -> dict[int, tuple[int, int]]:
    """The word (start, end) of each token that is part of one; of two, the first."""
    spans = [match.span() for match in _WORD.finditer(str(one.text))]
    if not spans:
        return {}
    own = _spans(one)
    words = np.searchsorted([end for _, end in spans], [start for _, start, _ in own], side="right").tolist()
    return {
        at: spans[word]
        for (at, _, end), word in zip(own, words, strict=True)
        if word < len(spans) and spans[word][0] < end
    }


def _words(one: TokenFacts) -> list[str | None]:
    found: list[str | None] = [None] * one.n_tokens
    for at, (start, end) in _words_of(one).items():
        found[at] = str(one.text)[start:end]
    return found


def _before(one: TokenFacts) -> list[str | None]:
    found: list[str | None] = [None] * one.n_tokens
    words = _words_of(one)
    for at, start, _ in _spans(one):
        stop = words.get(at, (start, 0))[0]
        found[at] = str(one.text)[max(0, stop - BEFORE_CHARS) : stop]
    return found


COLUMNS: Final[Mapping[str, Column]] = MappingProxyType(
    {
        "position": Column(meaning="number of the token in its prompt, from 0, without padding", make=_position),
        "from_end": Column(meaning="the same from the prompt's end: 0 is the last token", make=_from_end),
        "n_tokens": Column(meaning="tokens of the prompt", make=_n_tokens),
        "token_id": Column(meaning="id in the tokenizer's vocabulary", make=_joined("token_id")),
        "piece": Column(meaning="the token as the tokenizer writes it", make=_piece),
        "text": Column(
            meaning="the characters that the token stands for; NULL without", make=_per_token("text", _texts)
        ),
        "word": Column(meaning="the word that the token is part of; NULL without", make=_per_token("word", _words)),
        "before": Column(
            meaning=f"the prompt before that word, at most {BEFORE_CHARS} characters",
            make=_per_token("before", _before),
        ),
        "char_start": Column(
            meaning="where its characters begin in the prompt; -1 without", make=_joined("char_start")
        ),
        "char_end": Column(meaning="where they end", make=_joined("char_end")),
        "kind": Column(meaning=", ".join(TOKEN_KINDS), make=_kind),
        "tile": Column(meaning="tile of the picture; -1 for tokens that are no patch", make=_joined("tile")),
        "patch_row": Column(meaning="row of the patch; -1 for tokens that are no patch", make=_joined("patch_row")),
        "patch_col": Column(meaning="column of the patch; -1 for tokens that are no patch", make=_joined("patch_col")),
        "frame": Column(
            meaning="first frame of a video that the patch is made of; -1 for others", make=_joined("frame")
        ),
        "time_ms": Column(
            meaning="milliseconds of a sound at which the token begins; -1 for others", make=_joined("time_ms")
        ),
        "sample_id": Column(meaning="hash of the prompt", make=_of_sample("sample_id")),
        "n_images": Column(meaning="pictures of the prompt", make=_of_sample("n_images")),
        "n_videos": Column(meaning="videos of the prompt", make=_of_sample("n_videos")),
        "n_sounds": Column(meaning="sounds of the prompt", make=_of_sample("n_sounds")),
        "generated": Column(meaning="number of a generated token, from 0; NULL in the prompt", make=_generated),
    }
)
