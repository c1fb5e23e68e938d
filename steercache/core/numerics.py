"""Comparing the numerics of two computations: what moves the last bits of a value, and no meaning.

Both sides are JSON documents as `run.json` keeps them under `numerics`. A name that the record lacks is unknown (an older
steercache wrote it) and differs from nothing.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from steercache.core.errors import UsageError

PROBE: Final = "probe"  # dtype -> kernels -> hash of what they computed
QUANTISED: Final = "quantised"  # method, releases of its packages and, of a model in memory, classes of its modules
FORCED_OVER: Final = "forced_over"  # what a run's first shards were made under, where --force mixed two settings
BATCHING: Final = frozenset(
    {"tokens_per_batch", "padding_side", "batch_invariant"}
)  # which samples run together, and how
READING: Final = frozenset({"nnsight", "tokenizers"})  # libraries that compute nothing of what a model is given
_WHEN_MISSING: Final[Mapping[str, Any]] = {"batch_invariant": False}


def numeric_differences(
    recorded: Mapping[str, Any], found: Mapping[str, Any], *, ignore: Collection[str] = ()
) -> list[str]:
    """One phrase for each thing that differs; empty when values computed under both may stand beside each other.

    >>> numeric_differences({"device": "cpu", "threads": 1}, {"device": "cuda", "threads": 1, "isa": "AVX2"})
    ["device was 'cpu', is 'cuda'"]
    """
    before, now = _flat({**_WHEN_MISSING, **recorded}), _flat({**_WHEN_MISSING, **found})
    skipped = {*ignore, FORCED_OVER}
    differing = [
        path
        for path in sorted(before)
        if path[0] not in skipped and (path[0] != PROBE or path in now) and before[path] != now.get(path)
    ]
    measured = [" ".join(path[1:]) for path in differing if path[0] == PROBE]
    phrases = [f"{'.'.join(p)} was {before[p]!r}, is {now.get(p)!r}" for p in differing if p[0] != PROBE]
    return phrases + ([f"this machine computes other bits in {', '.join(measured)}"] if measured else [])


def settings_of(recorded: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every setting that values of a run were computed under, newest first: several where --force mixed them."""
    found = [recorded]
    while isinstance(earlier := found[-1].get(FORCED_OVER), Mapping):
        found.append(earlier)
    return found


def require_same_numerics(recorded: Mapping[str, Any], found: Mapping[str, Any], *, place: str) -> None:
    """Refuse to compute for a run what its other values were not computed under: for every worker, after loading its model.

    Raises:
        UsageError: naming each difference.
    """
    differences = numeric_differences(recorded, found)
    if differences:
        raise UsageError(
            f"this process computes under other numerics than the run: {'; '.join(differences)}",
            place=place,
            hint="give all workers the same kind of machine, environment variables and library versions",
        )


def _flat(document: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Leaves of nested mappings by their path."""
    leaves: dict[tuple[str, ...], Any] = {}
    for name, value in document.items():
        path = (*prefix, name)
        leaves |= _flat(value, path) if isinstance(value, Mapping) else {path: value}
    return leaves
