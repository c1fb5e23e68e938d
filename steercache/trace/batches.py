"""Which samples run together, and how they are padded. The plan belongs to a shard, so it depends on lengths alone."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.examples import EncodedSample, sample_id_of
from steercache.models.rope import LengthRule, any_length


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """Samples of one forward pass on the CPU; `input_ids` and `attention_mask` have shape (b, t).

    Sample i lies at columns `starts[i]` to `starts[i] + lengths[i]`. `position_ids` is None where counting columns is right.
    `extra` has per-token inputs (b, t) by name, `pixels` the image tensors, in the order of the samples. `image_digests` has
    the hashes of each sample's pictures, `samples` what is known of every token; None in a batch whose maker did not say.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    position_ids: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    pixels: Mapping[str, Any] = field(default_factory=dict)
    image_digests: tuple[tuple[str, ...], ...] | None = None
    samples: tuple[EncodedSample, ...] | None = field(default=None, repr=False)

    @property
    def padding_side(self) -> Literal["left", "right"] | None:
        """On which side shorter samples are filled up; None where all have one length."""
        if any(self.starts):
            return "left"
        return "right" if any(n < self.input_ids.shape[1] for n in self.lengths) else None

    def sample_ids(self) -> tuple[str, ...]:
        """`EncodedSample.sample_id` of every sample, from what the batch holds (pictures: from their digests)."""
        digests = self.image_digests or ((),) * len(self.lengths)
        found = []
        for slot, (start, n) in enumerate(zip(self.starts, self.lengths, strict=True)):
            rows = {name: x[slot, start : start + n] for name, x in (("", self.input_ids), *self.extra.items())}
            arrays = {name: row.cpu().numpy().astype(np.int32) for name, row in rows.items()}
            found.append(sample_id_of(arrays.pop(""), arrays, digests[slot]))
        return tuple(found)


def plan_batches(lengths: Sequence[int], *, tokens_per_batch: int, rule: LengthRule) -> tuple[tuple[int, ...], ...]:
    """Pack samples, longest first, into batches of at most `tokens_per_batch` padded tokens; a longer sample runs alone.

    Only samples for which `rule` (`models.rope.length_rule`) has one value share a batch. Equal lengths keep their order, so
    that the plan depends on nothing but the arguments.

    >>> plan_batches([3, 9, 4, 4], tokens_per_batch=12, rule=any_length)
    ((1,), (2, 3, 0))
    >>> plan_batches([3, 9, 4, 4], tokens_per_batch=12, rule=lambda n_tokens: n_tokens > 3)
    ((1,), (2, 3), (0,))
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch is {tokens_per_batch}")
    batches: list[tuple[int, ...]] = []
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        is_full = bool(batch) and (len(batch) + 1) * lengths[batch[0]] > tokens_per_batch
        if is_full or (batch and rule(lengths[i]) != rule(lengths[batch[0]])):
            batches.append(tuple(batch))
            batch = []
        batch.append(i)
    return (*batches, tuple(batch)) if batch else tuple(batches)


def group_by_rule(lengths: Sequence[int], rule: LengthRule) -> tuple[tuple[int, ...], ...]:
    """All samples in as few groups as `rule` allows, each in the order given: one group, unless lengths matter."""
    if rule is any_length:
        return (tuple(range(len(lengths))),)
    groups: dict[Hashable, list[int]] = {}
    for i, n in enumerate(lengths):
        groups.setdefault(rule(n), []).append(i)
    return tuple(map(tuple, groups.values()))


def share_a_batch(lengths: Sequence[int], rule: LengthRule) -> bool:
    """Whether `rule` lets samples of these lengths run together."""
    return len(lengths) < 2 or len({rule(n) for n in lengths}) == 1


def most_that_share(samples: Sequence[EncodedSample], rule: LengthRule) -> list[EncodedSample]:
    """The largest group of samples that `rule` lets run together, the first of equal ones."""
    groups = group_by_rule([sample.n_tokens for sample in samples], rule)
    return [samples[i] for i in max(groups, key=len, default=())]


def pad_batch(samples: Sequence[EncodedSample], *, padding_side: Literal["left", "right"], pad_id: int) -> PaddedBatch:
    """Stack samples to the longest one's length. Padding has mask 0, token `pad_id` and 0 in every extra."""
    lengths = tuple(sample.n_tokens for sample in samples)
    width = max(lengths)
    starts = tuple(width - n if padding_side == "left" else 0 for n in lengths)
    ones = [np.ones(n, dtype=np.int64) for n in lengths]
    mask = _stack(ones, starts, width=width, fill=0)
    names = sorted({name for sample in samples for name in sample.extra})
    return PaddedBatch(
        input_ids=_stack([s.input_ids for s in samples], starts, width=width, fill=pad_id),
        attention_mask=mask,
        starts=starts,
        lengths=lengths,
        # Columns count positions right when padding follows; padding before needs ids of its own (GPT-2 learnt absolute ones).
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0) if any(starts) else None,
        pixels=collate_pixels([s.pixels() for s in samples if s.pixels is not None]),
        image_digests=tuple(s.image_digests for s in samples),
        samples=tuple(samples),
        extra={
            name: _stack(
                [s.extra.get(name, np.zeros(s.n_tokens, np.int32)) for s in samples], starts, width=width, fill=0
            )
            for name in names
        },
    )


def collate_pixels(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Image tensors of several samples as one: joined along the first axis, all others filled up with zeros at their ends.

    The second axis counts tiles where their number varies (Idefics2 and 3, LLaVA-NeXT, LLaVA-OneVision: all leave empty ones
    out), the last two pixels where pictures differ in size (Pixtral, Idefics2: both leave out what fills them up).
    """
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        tensors = [part[name] for part in parts if name in part]  # some samples show pictures, others videos
        if name == "image_token_pooling":
            tensors = _counted_on([part for part in parts if name in part])
        shape = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
        joined[name] = torch.cat([_filled(t, shape) for t in tensors])
    return joined


def _counted_on(parts: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Molmo2: which patches each image token is made of, counted over all samples' crops; -1 stays, where there is none."""
    found, before = [], 0
    for part in parts:
        which, pixels = part["image_token_pooling"], part["pixel_values"]
        found.append(torch.where(which >= 0, which + before, which))
        before += pixels.shape[0] * pixels.shape[1]
    return found


def _filled(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    if list(tensor.shape[1:]) == list(shape):
        return tensor
    full = tensor.new_zeros(tensor.shape[0], *shape)
    full[(slice(None), *(slice(n) for n in tensor.shape[1:]))] = tensor
    return full


def _stack(parts: Sequence[npt.NDArray[Any]], starts: Sequence[int], *, width: int, fill: int) -> torch.Tensor:
    """Rows of several lengths as one (b, t) tensor of int64."""
    stacked = np.full((len(parts), width), fill, dtype=np.int64)
    for row, part, start in zip(stacked, parts, starts, strict=True):
        row[start : start + len(part)] = part
    return torch.from_numpy(stacked)
