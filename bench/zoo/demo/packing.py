"""Several questions behind one image in one row: they share the image and do not see each other (4-D mask, own positions)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.zoo.demo.targets import cell_of
from bench.zoo.turns import Turn
from steercache.data.scenes import Scene
from steercache.data.scenes.questions import letter
from steercache.zoo.demo.chat import AFTER_BODY, BEFORE_IMAGE
from steercache.zoo.demo.shape import N_CELLS, N_IMAGE_TOKENS

Tokenize = Callable[[str], tuple[list[int], list[tuple[int, int]]]]  # ids and character spans, no special tokens added


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedQuestion:
    """Where one question lies in the batch: row, positions of names, of the right option and of the answer's tokens."""

    row: int
    turn: Turn
    name_pos: tuple[int, ...]
    name_cells: tuple[tuple[int, ...], ...]  # positions of the image tokens that each name means
    option_pos: int | None
    choice_pos: tuple[int, ...]  # of every choice shown: its letter and its word
    answer_pos: tuple[int, ...]  # positions whose next token is the answer's; the last predicts the end of the turn
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Packed rows: ids and positions (b, t), additive mask (b, 1, t, t), where the image tokens are, and the questions."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor
    image_start: int
    asked: tuple[PackedQuestion, ...]


def tokenizer_call(tokenizer: Any) -> Tokenize:
    """A plain function of a fast tokenizer."""

    def tokenize(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(out.input_ids), list(out.offset_mapping)

    return tokenize


def pack(rows: Sequence[tuple[Scene, Sequence[Turn]]], tokenize: Tokenize, *, dtype: torch.dtype) -> Batch:
    """One row per scene: the image's prefix once, then every question with the prefix as its only past."""
    fake, image, glob = "<fake_token_around_image>", "<image>", "<global-img>"
    prefix, _ = tokenize(BEFORE_IMAGE + fake + glob + image * N_IMAGE_TOKENS + fake)
    image_start = len(prefix) - 1 - N_IMAGE_TOKENS
    ids_rows: list[list[int]] = []
    places_rows: list[list[int]] = []
    spans_rows: list[list[tuple[int, int]]] = []
    asked: list[PackedQuestion] = []
    for row, (_, turns) in enumerate(rows):
        ids, places, spans = list(prefix), list(range(len(prefix))), []
        for turn in turns:
            words, offsets = tokenize(turn.body + AFTER_BODY)
            answer = tokenize(turn.answer + "<|im_end|>")[0]
            start = len(ids)
            asked.append(_place(row, turn, start, offsets, answer, image_start))
            block = words + answer[:-1]
            ids += block
            places += range(len(prefix), len(prefix) + len(block))
            spans.append((start, len(ids)))
        ids_rows.append(ids)
        places_rows.append(places)
        spans_rows.append(spans)
    length = max(len(ids) for ids in ids_rows)
    mask = np.zeros((len(rows), length, length), dtype=bool)
    causal = np.tril(np.ones((length, length), dtype=bool))
    for row, spans in enumerate(spans_rows):
        mask[row, :, : len(prefix)] = causal[:, : len(prefix)]
        for start, stop in spans:
            mask[row, start:stop, start:stop] = causal[start:stop, start:stop]
    additive = torch.zeros(mask.shape, dtype=dtype).masked_fill(~torch.from_numpy(mask), torch.finfo(dtype).min)
    return Batch(
        input_ids=_pad(ids_rows, length),
        position_ids=_pad(places_rows, length),
        mask=additive[:, None],
        image_start=image_start,
        asked=tuple(asked),
    )


def _place(
    row: int, turn: Turn, start: int, offsets: list[tuple[int, int]], answer: list[int], image_start: int
) -> PackedQuestion:
    def position(char: int) -> int:
        return start + next(i for i, (first, stop) in enumerate(offsets) if first <= char < stop)

    cells = [image_start + r * N_CELLS + c for r, c in (cell_of(item.x, item.y) for item in turn.question.names)]
    together = turn.question.task == "Count"
    last = start + len(offsets) - 1
    return PackedQuestion(
        row=row,
        turn=turn,
        name_pos=tuple(position(char + 1) for char in turn.name_at),
        name_cells=(tuple(cells),) if together else tuple((cell,) for cell in cells),
        option_pos=None if turn.option_at is None else position(turn.option_at),
        choice_pos=tuple(position(at) for at in choice_at(turn)),
        answer_pos=tuple(range(last, last + len(answer))),
        answer_ids=tuple(answer),
    )


def choice_at(turn: Turn) -> tuple[int, ...]:
    """Places in the body of each choice's letter and word."""
    if turn.option_at is None:
        return ()
    spots = [turn.body.index(f"\n({letter(i)}) ") for i in range(len(turn.question.choices))]
    return tuple(at + step for at in spots for step in (2, 5))


def _pad(rows: list[list[int]], length: int) -> torch.Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])
