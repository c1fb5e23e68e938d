"""Which rows of a sample are kept: the row policies of a trace manifest."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.manifests.trace import RowPolicy

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]


def _last_token(sample: EncodedSample) -> Mask:
    mask: Mask = np.arange(sample.n_tokens) == sample.n_tokens - 1
    return mask


def _of_kind(kind: str) -> Callable[[EncodedSample], Mask]:
    return lambda sample: sample.kind == TOKEN_KINDS.index(kind)


ROLES: dict[str, Callable[[EncodedSample], Mask]] = {
    "anchor": lambda sample: sample.is_anchor,
    "control": lambda sample: sample.is_control,
    "last": _last_token,
    **{kind: _of_kind(kind) for kind in TOKEN_KINDS},
}
LABELLED_ROLES = frozenset({"anchor", "control"})


def _roles(sample: EncodedSample, policy: RowPolicy) -> Mask:
    mask: Mask = np.logical_or.reduce([ROLES[role](sample) for role in policy.roles or ()])
    return mask


def _every(sample: EncodedSample, policy: RowPolicy) -> Mask:
    mask: Mask = np.arange(sample.n_tokens) % (policy.every or 1) == 0
    return mask


POLICIES: dict[str, Callable[[EncodedSample, RowPolicy], Mask]] = {
    "all": lambda sample, policy: np.ones(sample.n_tokens, dtype=bool),
    "roles": _roles,
    "every": _every,
    "last": lambda sample, policy: _last_token(sample),
    "image": lambda sample, policy: ROLES["image"](sample),
    "text": lambda sample, policy: ROLES["text"](sample),
}


def kept_positions(sample: EncodedSample, policy: RowPolicy) -> Positions:
    """Positions of the tokens that the policy keeps, ascending, shape (n,).

    Raises:
        UsageError: the policy keeps means, which have no position.
    """
    if policy.policy not in POLICIES:
        raise UsageError(f"row policy {policy.policy!r} keeps no single tokens", hint=f"one of {', '.join(POLICIES)}")
    return np.flatnonzero(POLICIES[policy.policy](sample, policy))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPool:
    """Tokens of one kind (an index into TOKEN_KINDS) whose mean is one row; `positions` ascend, shape (n,), n > 0."""

    kind: int
    positions: Positions


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRows:
    """The rows of one sample, in the order of their slots: those of single tokens, or means over pools of them."""

    positions: Positions
    pools: tuple[TokenPool, ...] = ()

    @property
    def n_rows(self) -> int:
        return len(self.positions) + len(self.pools)


def kept_rows(sample: EncodedSample, policy: RowPolicy, *, sink: bool = True) -> KeptRows:
    """What the policy keeps of a sample. `sink` is false where position 0 is like any other (patches of a vision tower)."""
    if policy.policy != "pooled":
        return KeptRows(positions=kept_positions(sample, policy))
    return KeptRows(positions=np.empty(0, dtype=np.int64), pools=pools_of(sample, sink=sink))


def pools_of(sample: EncodedSample, *, sink: bool = True) -> tuple[TokenPool, ...]:
    """Tokens by kind, in the order of TOKEN_KINDS; a kind without tokens has no pool.

    Position 0 is in none where it is the attention sink: its massive activation would swamp the mean.
    """
    inside = np.arange(sample.n_tokens) >= (1 if sink else 0)
    pools = [TokenPool(kind=k, positions=np.flatnonzero((sample.kind == k) & inside)) for k in range(len(TOKEN_KINDS))]
    return tuple(pool for pool in pools if len(pool.positions))


def depends_on_labels(policy: RowPolicy) -> bool:
    """Whether mending a label changes which rows are kept; only then labels are part of a run's identity."""
    return bool(LABELLED_ROLES.intersection(policy.roles or ()))
