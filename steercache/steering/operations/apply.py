"""The one place where an operation meets a hidden state: live, in replay, branched and in full, with the same rounding.

Everything is computed in float32 (float64 for float64 hidden states) and rounded once. Sums run along the hidden axis of each
row by itself, so that a row's value does not depend on what else is in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from steercache.core.vector_use import OperationName
from steercache.steering.add import add_vector
from steercache.steering.operations.change import Change


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Applied:
    """Changes of one kind as tensors: `rows` (k, b or 1, 1, d), strength and numbers (b or 1, 1, 1), all float32."""

    name: OperationName
    rows: torch.Tensor = field(repr=False)
    strength: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor

    def to(self, device: torch.device) -> "Applied":
        """The same on a device."""
        if self.rows.device == device:
            return self
        moved = {name: getattr(self, name).to(device) for name in ("rows", "strength", "first", "second")}
        return Applied(name=self.name, **moved)


def as_applied(changes: Sequence[Change], *, n_each: int = 1) -> Applied:
    """Changes of one kind for a batch in which each has `n_each` sequences, change after change."""

    def column(values: list[float]) -> torch.Tensor:
        made = torch.tensor(values, dtype=torch.float64, device="cpu").to(torch.float32)
        return made.repeat_interleave(n_each if len(changes) > 1 else 1)[:, None, None]

    rows = torch.stack([torch.from_numpy(one.rows_kd.copy()) for one in changes], dim=1)
    return Applied(
        name=changes[0].name,
        rows=rows.repeat_interleave(n_each if len(changes) > 1 else 1, dim=1)[:, :, None],
        strength=column([one.strength for one in changes]),
        first=column([one.numbers[0] for one in changes]),
        second=column([one.numbers[1] for one in changes]),
    )


def apply(hidden_btd: torch.Tensor, change: Applied, mask_bt: torch.Tensor) -> torch.Tensor:
    """`hidden_btd` changed where `mask_bt` is True and the strength is not 0; every other row keeps its bits.

    A mask of float32 weights multiplies the strength token by token: what is added, the share, the angle.
    """
    change = change.to(hidden_btd.device)
    if change.name == "add":
        return add_vector(hidden_btd, change.rows[0], mask_bt)
    if mask_bt.dtype != torch.bool:
        change, mask_bt = weighed(change, mask_bt.unsqueeze(-1)), mask_bt != 0
    exact = torch.promote_types(hidden_btd.dtype, torch.float32)
    moved = _FORMULAS[change.name](hidden_btd.to(exact), change).to(hidden_btd.dtype)
    return torch.where((mask_bt & (change.strength[:, :, 0] != 0)).unsqueeze(-1), moved, hidden_btd)


def apply_each(steps: Sequence[tuple[Applied, torch.Tensor]], hidden_btd: torch.Tensor) -> torch.Tensor:
    """Several changes one after the other, each with the mask (b, t) of all tokens (`last_columns`)."""
    for change, mask_bt in steps:
        hidden_btd = apply(hidden_btd, change, last_columns(mask_bt, hidden_btd).to(hidden_btd.device))
    return hidden_btd


def last_columns(mask_bt: torch.Tensor, hidden_btd: torch.Tensor) -> torch.Tensor:
    """Of a mask of all tokens, the columns that hidden states have: a branch computes the last ones, and so do Gemma 4's
    blocks without keys of their own where `generate` asks for no other logits. What is steered elsewhere there changes nothing.
    """
    return mask_bt[:, mask_bt.shape[1] - hidden_btd.shape[1] :]


def weighed(change: Applied, weight_bt1: torch.Tensor) -> Applied:
    """The change at `weight` times its strength (b, t, 1); where the weight is 1 its numbers keep their bits."""
    strength = change.strength * weight_bt1
    if change.name == "add_preserving_norm":
        return replace(change, rows=change.rows * weight_bt1, strength=strength)
    if change.name != "rotate":
        return replace(change, strength=strength)
    angle = torch.deg2rad(change.strength.double() * weight_bt1.double())
    same = weight_bt1 == 1
    first = torch.where(same, change.first, angle.cos().float())
    return replace(change, strength=strength, first=first, second=torch.where(same, change.second, angle.sin().float()))


def _along(hidden: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return (hidden * u).sum(-1, keepdim=True)


def _by_component(target: Callable[[torch.Tensor, Applied], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """h + a sum_i (target(c_i) - c_i) u_i."""

    def formula(hidden: torch.Tensor, change: Applied) -> torch.Tensor:
        moved = hidden
        for u in change.rows:
            c = _along(hidden, u)
            moved = torch.addcmul(moved, change.strength * (target(c, change) - c), u.to(hidden.dtype))
        return moved

    return formula


def _replace(hidden: torch.Tensor, change: Applied) -> torch.Tensor:
    return (1 - change.strength) * hidden + change.strength * change.rows[0]


def _rotate(hidden: torch.Tensor, change: Applied) -> torch.Tensor:
    u, cos, sin = change.rows[0], change.first, change.second
    c = _along(hidden, u)
    rest = hidden - c * u
    s = rest.square().sum(-1, keepdim=True).sqrt()
    turned = (c * cos + s * sin) * u + (cos - c / s * sin) * rest
    return torch.where(s > 1e-6 * c.abs(), turned, hidden)


def _rotate_in_plane(hidden: torch.Tensor, change: Applied) -> torch.Tensor:
    u1, u2 = change.rows
    c1, c2 = _along(hidden, u1), _along(hidden, u2)
    norm = (c1.square() + c2.square()).sqrt()
    x, y = norm * change.first, norm * change.second
    if bool((change.strength != 1).any()):
        way = torch.atan2(
            (change.second * c1 - change.first * c2).double(), (change.first * c1 + change.second * c2).double()
        )
        turn = change.strength.double() * way
        cos, sin = turn.cos().to(hidden.dtype), turn.sin().to(hidden.dtype)
        whole = change.strength == 1
        x, y = torch.where(whole, x, c1 * cos - c2 * sin), torch.where(whole, y, c1 * sin + c2 * cos)
    moved = torch.addcmul(hidden, x - c1, u1.to(hidden.dtype))
    return torch.addcmul(moved, y - c2, u2.to(hidden.dtype))


def _rotate_in_plane_adaptive(hidden: torch.Tensor, change: Applied) -> torch.Tensor:
    return torch.where(_along(hidden, change.rows[0]) > 0, _rotate_in_plane(hidden, change), hidden)


def _add_preserving_norm(hidden: torch.Tensor, change: Applied) -> torch.Tensor:
    moved = hidden + change.rows[0]
    lengths = [x.square().sum(-1, keepdim=True).sqrt() for x in (hidden, moved)]
    return torch.where(lengths[1] > 0, moved * (lengths[0] / lengths[1]), hidden)


_FORMULAS: dict[OperationName, Callable[[torch.Tensor, Applied], torch.Tensor]] = {
    "project_out": _by_component(lambda c, change: torch.zeros_like(c)),
    "project_cap": _by_component(lambda c, change: torch.minimum(c, change.second)),
    "clamp": _by_component(lambda c, change: change.second),
    "affine": _by_component(lambda c, change: change.first * c + change.second),
    "replace": _replace,
    "rotate": _rotate,
    "rotate_in_plane": _rotate_in_plane,
    "rotate_in_plane_adaptive": _rotate_in_plane_adaptive,
    "add_preserving_norm": _add_preserving_norm,
}
