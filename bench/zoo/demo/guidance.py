"""Guidance of the language side: which token should look at which, and what should be readable where.

Without it nothing moved in earlier trials: the answer loss alone stays at chance. Its weight falls to 0 in training.
(a) a naming word looks at its item's image token, layers 5-15; (b) the item's place, or the number of items, is linearly
readable at the naming word after layer 17, and the difference of two places, or the number, at the final token after layer 22;
(c) the final token looks at the naming words, layers 18-21; (d) the final token
looks at the right option's word, layers 24-26. A counted word spreads its look over the k items and the first token (which
takes FREE shares), so that k stays visible in the sum: attention over k equal items alone would average it away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from bench.zoo.demo.packing import PackedQuestion

NAME_LAYERS: Final = (5, 7, 9, 11, 13, 15)
ITEM_LAYERS: Final = (18, 19, 20, 21)
OPTION_LAYERS: Final = (24, 25, 26)
READ_LAYER: Final = 17
FINAL_LAYER: Final = 22
NAME_HEADS: Final = (0, 3, 6)  # one of every key-value group
FIRST_HEADS: Final = (0, 3)
SECOND_HEADS: Final = (1, 6)
OPTION_HEADS: Final = (0, 3, 6)
FREE: Final = 4.0
N_COUNTS: Final = 5

Losses = dict[str, torch.Tensor]


class ReadOut(nn.Module):
    """Linear maps from hidden states, in training only: to the place and the number of items at a naming word, and at the final
    token to the difference of two places and to the number.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.place = nn.Linear(width, 2)
        self.count = nn.Linear(width, N_COUNTS)
        self.final_norm = nn.RMSNorm(width)
        self.difference = nn.Linear(width, 2)
        self.final_count = nn.Linear(width, N_COUNTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Row and position of every naming word and then of every question's final token."""

    rows: torch.Tensor
    positions: torch.Tensor

    def of(self, all_btx: torch.Tensor) -> torch.Tensor:
        """Their rows of states (b, t, d), or of looks (b, h, t, t): (n, d), (n, h, t)."""
        if all_btx.dim() == 4:
            return all_btx[self.rows, :, self.positions]
        return all_btx[self.rows, self.positions]


def watched_tokens(asked: Sequence[PackedQuestion]) -> Watched:
    """The tokens that guidance speaks of."""
    pairs = [(one.row, pos) for one in asked for pos in one.name_pos]
    pairs += [(one.row, one.answer_pos[0]) for one in asked]
    rows, positions = (torch.tensor(column) for column in zip(*pairs, strict=True))
    return Watched(rows=rows, positions=positions)


def guidance_losses(
    looks: Mapping[int, torch.Tensor], asked: Sequence[PackedQuestion], watched: Watched
) -> dict[str, torch.Tensor]:
    """The cross entropies of (a), (c) and (d), each a mean over questions, layers and heads; looks (b, h, t, t) per layer."""
    kept = {layer: watched.of(looks[layer]) for layer in (*NAME_LAYERS, *ITEM_LAYERS, *OPTION_LAYERS)}
    length = next(iter(kept.values())).shape[-1]
    wanted = _wanted_looks(asked, length)
    n_names = len(wanted)
    floor = (wanted * (wanted + 1e-12).log()).sum(-1).mean()  # so that a perfect look costs nothing
    name_terms = [
        -(wanted[:, None] * (kept[layer][:n_names, list(NAME_HEADS)] + 1e-6).log()).sum(-1).mean()
        for layer in NAME_LAYERS
    ]
    losses = {"name": torch.stack(name_terms).mean() + floor}
    items = [(n, pos, i) for n, one in enumerate(asked) for i, pos in enumerate(one.name_pos)]
    which = torch.tensor([n for n, _, _ in items])
    where = torch.tensor([pos for _, pos, _ in items])
    second = torch.tensor([i == 1 for _, _, i in items])[:, None]
    options = [(n, one.option_pos) for n, one in enumerate(asked) if one.option_pos is not None]
    item_terms = []
    for layer in ITEM_LAYERS:
        seen = kept[layer][n_names:][which, :, where]  # (n, h)
        item_terms.append(_surprise(torch.where(second, seen[:, list(SECOND_HEADS)], seen[:, list(FIRST_HEADS)])))
    losses["item"] = torch.stack(item_terms).mean()
    if options:
        which, where = (torch.tensor(column) for column in zip(*options, strict=True))
        terms = [_surprise(kept[layer][n_names:][which, :, where][:, list(OPTION_HEADS)]) for layer in OPTION_LAYERS]
        losses["option"] = torch.stack(terms).mean()
    return losses


def _wanted_looks(asked: Sequence[PackedQuestion], length: int) -> torch.Tensor:
    """Equal shares over the item's tokens, (n, t), with FREE shares for the first token if they are counted."""
    names = [(cells, one.turn.question.task == "Count") for one in asked for cells in one.name_cells]
    wanted = torch.zeros(len(names), length)
    for i, (cells, together) in enumerate(names):
        wanted[i, list(cells)] = 1.0
        wanted[i, 0] = FREE if together else 0.0
    return wanted / wanted.sum(-1, keepdim=True)


def read_losses(
    read: ReadOut, states: Mapping[int, torch.Tensor], asked: Sequence[PackedQuestion], watched: Watched
) -> Losses:
    """(b): squared errors of places (in half sides) and cross entropies of numbers; states (b, t, d) by layer."""
    names_nd, finals_nd = watched.of(states[READ_LAYER]).float(), watched.of(states[FINAL_LAYER]).float()
    n_names = len(finals_nd) - len(asked)
    owners = [(one, i) for one in asked for i in range(len(one.name_pos))]
    counted = torch.tensor([one.turn.question.task == "Count" for one, _ in owners])
    at = read.norm(names_nd[:n_names])
    losses: Losses = {}
    items = [one.turn.question.names[i] for one, i in owners if one.turn.question.task != "Count"]
    if items:
        places = torch.tensor([(item.x * 2 - 1, item.y * 2 - 1) for item in items])
        losses["place"] = 4 * functional.mse_loss(read.place(at[~counted]), places)
    at_final = read.final_norm(finals_nd[n_names:])
    related = torch.tensor([one.turn.question.task == "Relation" for one in asked])
    if related.any():
        pairs = [one.turn.question.names for one in asked if one.turn.question.task == "Relation"]
        steps = torch.tensor([(a.x - b.x, a.y - b.y) for a, b in pairs])
        losses["difference"] = 8 * functional.mse_loss(read.difference(at_final[related]), steps)
    if counted.any():
        numbers = torch.tensor(
            [len(one.turn.question.names) - 1 for one, _ in owners if one.turn.question.task == "Count"]
        )
        final_counted = torch.tensor([one.turn.question.task == "Count" for one in asked])
        early = functional.cross_entropy(read.count(at[counted]), numbers)
        losses["count"] = 0.5 * (early + functional.cross_entropy(read.final_count(at_final[final_counted]), numbers))
    return losses


def _surprise(probs: torch.Tensor) -> torch.Tensor:
    return -(probs + 1e-6).log().mean()
