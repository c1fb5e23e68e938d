"""The inputs of a run as one stream: every sample of every data set, encoded, in order, and again from any point."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from steercache.core.errors import ManifestError, Problem
from steercache.core.examples import EncodedSample, Example
from steercache.models.spec import TokenizerBundle
from steercache.trace.encode import REMEDIES, EncodingProblem, encode_example, patches_of

MAX_PROBLEMS = 200  # named in full; the rest are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedDataset:
    """A data set under its name; `examples` can be iterated again and again."""

    name: str
    examples: Iterable[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSample:
    """One input: `ordinal` counts within its data set, `sample_idx` within the run."""

    dataset: str
    ordinal: int
    sample_idx: int
    example: Example
    encoded: EncodedSample
    patches: EncodedSample | None = None

    @property
    def units(self) -> EncodedSample:
        """What the run's rows are of: the tokens, or in a run of `vision_out` the patches of the vision tower."""
        return self.encoded if self.patches is None else self.patches


def iter_inputs(
    datasets: Sequence[NamedDataset], bundle: TokenizerBundle, *, max_tokens: int | None, patches: bool = False
) -> Iterator[InputSample]:
    """Encode every example in data-set order; with `patches`, say where the rows of the vision tower lie.

    Raises:
        ManifestError: after the last example, naming every one that could not be encoded (a missing, cut or first-position
            anchor, no tokens at all), and every row that its data set itself refuses.
    """
    problems: list[Problem] = []
    refusals: list[ManifestError] = []
    kinds: Counter[str] = Counter()
    n_samples = 0
    for place in _iter_places(datasets, refusals):
        n_samples += 1
        try:
            yield _encode(place, bundle, max_tokens=max_tokens, patches=patches)
        except EncodingProblem as problem:
            kinds[problem.kind] += 1
            if len(problems) < MAX_PROBLEMS:
                problems.append(Problem(loc=place.example.place, kind=problem.kind, message=problem.message))
    if kinds or refusals:
        raise _all_refused(refusals, problems, kinds, n_samples=n_samples)


def _all_refused(
    refusals: Sequence[ManifestError], problems: Sequence[Problem], kinds: Counter[str], *, n_samples: int
) -> ManifestError:
    """One error for what data sets and tokenizer refused; a data set's own when there is nothing else."""
    n_bad = kinds.total()
    if not n_bad and len(refusals) == 1:
        return refusals[0]
    said = [f"{r.place}: {r.message}".rstrip(":") for r in refusals]
    if n_bad:
        more = f" (the first {MAX_PROBLEMS} are shown)" if n_bad > len(problems) else ""
        could = "that could be read " if refusals else ""  # behind its first bad row a data set yields nothing more
        said.append(f"{n_bad} of {n_samples} samples {could}cannot be traced{more}")
    return ManifestError(
        "; ".join(said),
        problems=[*(problem for refusal in refusals for problem in refusal.problems), *problems],
        hint=_remedy(refusals, kinds),
    )


def _remedy(refusals: Sequence[ManifestError], kinds: Counter[str]) -> str:
    """What mends the problems, each kind once, the most frequent first; then the same command runs."""
    mends = [r.hint for r in refusals if r.hint] + [REMEDIES[kind] for kind, _ in kinds.most_common()]
    return "; ".join([*dict.fromkeys(mends), "then run the same command again"])


class InputStream:
    """Consecutive samples on demand; going on is free, skipping reads without encoding, going back starts over.

    The samples were planned: their pictures are known to be whole, and are decoded when their batch runs.
    """

    def __init__(
        self,
        datasets: Sequence[NamedDataset],
        bundle: TokenizerBundle,
        *,
        max_tokens: int | None,
        patches: bool = False,
    ) -> None:
        self._datasets, self._bundle, self._max_tokens, self._patches = datasets, bundle, max_tokens, patches
        self._places, self._next = _iter_places(datasets), 0

    def take(self, first: int, n: int) -> list[InputSample]:
        """Samples `first` to `first + n - 1`; fewer when the data has become shorter, or can no longer be encoded."""
        if first < self._next:
            self._places, self._next = _iter_places(self._datasets), 0
        taken = []
        for place in islice(self._places, first - self._next, first - self._next + n):
            with suppress(
                EncodingProblem
            ):  # it could be encoded when the run was planned: the caller sees that one is missing
                taken.append(
                    _encode(place, self._bundle, max_tokens=self._max_tokens, patches=self._patches, decode=False)
                )
        self._next = first + n
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """An example where it stands."""

    dataset: str
    ordinal: int
    sample_idx: int
    example: Example


def _iter_places(datasets: Sequence[NamedDataset], refusals: list[ManifestError] | None = None) -> Iterator[_Place]:
    """Every example of every data set; with `refusals`, a data set with bad rows is put there and the next one read."""
    sample_idx = 0
    for dataset in datasets:
        try:
            for ordinal, example in enumerate(dataset.examples):
                yield _Place(dataset=dataset.name, ordinal=ordinal, sample_idx=sample_idx, example=example)
                sample_idx += 1
        except ManifestError as error:
            if refusals is None:
                raise
            refusals.append(error)


def _encode(
    place: _Place, bundle: TokenizerBundle, *, max_tokens: int | None, patches: bool, decode: bool = True
) -> InputSample:
    encoded = encode_example(place.example, bundle, max_tokens=max_tokens, decode=decode)
    return InputSample(
        dataset=place.dataset,
        ordinal=place.ordinal,
        sample_idx=place.sample_idx,
        example=place.example,
        encoded=encoded,
        patches=patches_of(encoded) if patches else None,
    )
