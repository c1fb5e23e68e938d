"""What public bug reports of captured hidden states are about, checked sample by sample; all problems at once."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from steercache.core.errors import ManifestError, Problem
from steercache.exchange.activations.captured import Captured, CapturedSample, Requests

Duplicates = Literal["refuse", "first", "keep"]
MOST_NAMED = 200
_REMEDIES = {
    "rows": "rows and token ids differ in number: prefix caching leaves out what was computed before (vllm#44485), so capture"
    " again without it (vLLM: enable_prefix_caching=False)",
    "tokens": "capture the samples again",
    "no_tokens": "give a list of requests with their token ids",
    "missing": "capture the missing requests, or leave them out by name",
    "duplicate": "the same tokens were captured twice: keep the first, or keep both",
    "unreadable": "capture the samples again, or leave them out by name",
    "width": "the files are of several models: one run has one width",
    "dtype": "capture with one dtype, or name the dtype to store",
    "entries": "capture the same layers of every request",
    "vocabulary": "the token ids are another tokenizer's: name the model that was captured",
    "values": "capture the samples again, leave them out by name, or allow rows that are not finite",
    "unknown": "the data set does not have these samples: leave them out by name, or import without the data set",
    "ambiguous": "import without the data set, or capture one sample of each",
}


def checked(
    captured: Captured,
    requests: Requests,
    *,
    vocab_size: int | None = None,
    width: int | None = None,
    leave_out: Sequence[str] = (),
    duplicates: Duplicates = "refuse",
    any_dtype: bool = False,
    place: str,
) -> tuple[CapturedSample, ...]:
    """The samples that can be taken in, in the order of the requests where there is such a list.

    Raises:
        ManifestError: anything is wrong; every sample that it is wrong with is a problem of it.
    """
    out = {*leave_out}
    problems = [p for p in captured.problems if p.loc not in out]
    samples = [s for s in captured.samples if s.key not in out]
    known = {*(s.key for s in captured.samples), *(p.loc for p in captured.problems), *requests}
    problems += [
        Problem(loc=key, kind="unknown_name", message="there is no such sample") for key in sorted(out - known)
    ]
    problems += _names_that_come_twice(samples)
    if requests:
        there = {s.key: s for s in samples}
        missing = [key for key in requests if key not in there and key not in out]
        problems += [_problem(key, "missing", "no hidden states were captured") for key in missing]
        problems += [
            _problem(s.key, "unknown", "not in the list of requests") for s in samples if s.key not in requests
        ]
        samples = [there[key] for key in requests if key in there]
    for sample in samples:
        problems += _of_one(sample, requests, vocab_size=vocab_size)
    problems += _same("width", samples, lambda s: s.width, wanted=width)
    problems += _same("entries", samples, lambda s: s.n_entries)
    problems += [] if any_dtype else _same("dtype", samples, lambda s: s.dtype)
    samples, twice = _without_duplicates(samples, duplicates)
    problems += twice
    if not samples and not problems:
        problems.append(_problem("", "missing", "there is no sample"))
    seen = {*(s.key for s in captured.samples), *(p.loc for p in captured.problems)}  # files that are not read, too
    refuse(problems, n=len(seen), place=place)
    return tuple(samples)


def refuse(problems: Sequence[Problem], *, n: int, place: str) -> None:
    """Raise what is wrong with some of `n` samples, with what mends it; return when nothing is."""
    if not problems:
        return
    kinds = Counter(p.kind for p in problems)
    more = f" (the first {MOST_NAMED} are shown)" if len(problems) > MOST_NAMED else ""
    hints = [_REMEDIES[kind] for kind, _ in kinds.most_common() if kind in _REMEDIES]
    samples = len({p.loc for p in problems})
    raise ManifestError(
        f"{samples} of {max(n, samples)} samples cannot be taken in{more}",
        problems=problems[:MOST_NAMED],
        place=place,
        hint="; ".join(hints) or None,
    )


def _of_one(sample: CapturedSample, requests: Requests, *, vocab_size: int | None) -> Iterable[Problem]:
    ids = sample.token_ids
    if ids is None or not len(ids):
        yield _problem(sample.key, "no_tokens", "no token ids")
        return
    asked = requests.get(sample.key)
    wanted = None if asked is None else asked.token_ids
    if len(ids) != sample.n_rows:
        yield _problem(sample.key, "rows", f"{sample.n_rows} rows for {len(ids)} token ids")
    elif wanted is not None and len(wanted) != sample.n_rows:
        yield _problem(sample.key, "rows", f"{sample.n_rows} rows for the {len(wanted)} token ids of the request")
    elif wanted is not None and (wanted != ids).any():
        yield _problem(sample.key, "tokens", "other token ids than the request")
    if vocab_size is not None and int(ids.max()) >= vocab_size:
        yield _problem(sample.key, "vocabulary", f"token id {int(ids.max())}, the model has {vocab_size}")


def _names_that_come_twice(samples: Sequence[CapturedSample]) -> list[Problem]:
    counts = Counter(s.key for s in samples)
    return [_problem(key, "duplicate", f"{n} requests have this name") for key, n in counts.items() if n > 1]


def _same(
    kind: str, samples: Sequence[CapturedSample], of: Callable[[CapturedSample], object], *, wanted: object = None
) -> list[Problem]:
    """Samples that differ from `wanted`, or from most of the others."""
    if not samples:
        return []
    expected = Counter(map(of, samples)).most_common(1)[0][0] if wanted is None else wanted
    noun = {"entries": "entries per token", "width": "wide", "dtype": "values"}[kind]
    return [_problem(s.key, kind, f"{of(s)} {noun}, not {expected}") for s in samples if of(s) != expected]


def _without_duplicates(
    samples: list[CapturedSample], duplicates: Duplicates
) -> tuple[list[CapturedSample], list[Problem]]:
    if duplicates == "keep":
        return samples, []
    first: dict[bytes, str] = {}
    kept, problems = [], []
    for sample in samples:
        tokens = b"" if sample.token_ids is None else sample.token_ids.tobytes()
        if tokens and tokens in first:
            problems.append(_problem(sample.key, "duplicate", f"the same tokens as {first[tokens]}"))
            continue
        first[tokens] = sample.key
        kept.append(sample)
    return (kept, []) if duplicates == "first" else (samples, problems)


def _problem(key: str, kind: str, message: str) -> Problem:
    return Problem(loc=key, kind=kind, message=message)
