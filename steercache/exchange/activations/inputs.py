"""Captured samples as inputs of a run: those of a data set found again by their token ids, or the samples as they are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from steercache.core.errors import Problem
from steercache.core.examples import EncodedSample, Example, IntArray
from steercache.exchange.activations.captured import CapturedSample
from steercache.models.spec import TokenizerBundle
from steercache.runs.inputs import InputSample
from steercache.trace.encode import IMAGE, SPECIAL, TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedSample:
    """An input of the run, and the request whose hidden states are its rows."""

    input: InputSample = field(repr=False)
    captured: CapturedSample


def pair_with_dataset(
    samples: Sequence[CapturedSample], inputs: Iterable[InputSample]
) -> tuple[list[PairedSample], list[Problem]]:
    """Every input with the request that has its token ids, in the order of the data sets, and what is wrong.

    Several inputs of one text take one request, as they have the same values. With different pictures they do not: those are
    told apart by nothing that the files hold.
    """
    by_ids = {_key(s.token_ids): s for s in samples if s.token_ids is not None}
    paired: list[PairedSample] = []
    problems: list[Problem] = []
    pictures: dict[bytes, set[tuple[str, ...]]] = {}
    used: set[bytes] = set()
    for one in inputs:
        key = _key(one.encoded.input_ids)
        pictures.setdefault(key, set()).add(one.encoded.image_digests)
        if key not in by_ids:
            problems.append(
                Problem(loc=one.example.place, kind="missing", message="no request with its token ids was captured")
            )
            continue
        used.add(key)
        paired.append(PairedSample(input=one, captured=by_ids[key]))
    problems += [
        Problem(
            loc=by_ids[key].key, kind="ambiguous", message=f"{len(found)} samples with other pictures have these ids"
        )
        for key, found in pictures.items()
        if len(found) > 1 and key in by_ids
    ]
    problems += [
        Problem(loc=s.key, kind="unknown", message="no sample of the data sets has these token ids")
        for key, s in by_ids.items()
        if key not in used
    ]
    return paired, problems


def as_inputs(samples: Sequence[CapturedSample], *, dataset: str, bundle: TokenizerBundle | None) -> list[PairedSample]:
    """The samples in their order as a data set of their own; with `bundle`, its tokenizer tells text from special tokens."""
    paired = []
    for i, sample in enumerate(samples):
        assert sample.token_ids is not None  # the checks saw to it
        text = sample.text
        if text is None:
            text = "" if bundle is None else str(bundle.tokenizer.decode(sample.token_ids.tolist()))
        encoded = _encoded(sample.token_ids, text, bundle)
        example = Example(dataset=dataset, place=sample.key, text=text)
        one = InputSample(dataset=dataset, ordinal=i, sample_idx=i, example=example, encoded=encoded)
        paired.append(PairedSample(input=one, captured=sample))
    return paired


def _encoded(ids: IntArray, text: str, bundle: TokenizerBundle | None) -> EncodedSample:
    nowhere = np.full(len(ids), -1, dtype=np.int32)
    none = np.zeros(len(ids), dtype=np.bool_)
    return EncodedSample(
        text=text,
        input_ids=ids,
        char_start=nowhere,
        char_end=nowhere,
        kind=_kinds(ids, bundle),
        is_anchor=none,
        is_control=none,
        tile=nowhere,
        patch_row=nowhere,
        patch_col=nowhere,
    )


def _kinds(ids: IntArray, bundle: TokenizerBundle | None) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    kind = np.full(len(ids), TEXT, dtype=np.int8)
    if bundle is not None:
        kind[np.isin(ids, bundle.special_ids)] = SPECIAL
        if bundle.family.modality == "image":
            kind[ids == bundle.config.image_token_id] = IMAGE
    return kind


def _key(ids: IntArray | None) -> bytes:
    return b"" if ids is None else np.asarray(ids, dtype=np.int32).tobytes()


class NoTokenizer:
    """Stands where no tokenizer is known: tokens have ids and no text."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[None]:
        """None for every id."""
        return [None] * len(ids)
