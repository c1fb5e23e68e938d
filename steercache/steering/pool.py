"""Stacks whose prompts are done and whose answers are not: decoded together, since a step of decoding costs the same for a
few sequences as for many."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from steercache.steering.cells import CellAnswers, FirstTokens, Precision, make_answers
from steercache.steering.decode import DecodedTokens, DecodeStart, KeysValues, decode_greedily, filled_cache
from steercache.steering.prefill import Prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingStack:
    """One stack of n cells over b samples; rows are cell after cell. `keys_values` are those of the blocks above `layer`."""

    keys: tuple[str, ...]
    layer: int
    firsts: FirstTokens
    keys_values: Mapping[int, KeysValues] = field(repr=False)


class DecodeQueue:
    """Stacks that wait to be decoded."""

    def __init__(
        self,
        prefill: Prefill,
        max_new_tokens: int,
        ends: frozenset[int],
        *,
        same_batch: bool,
        precision: Precision,
    ) -> None:
        self._prefill, self._n_more, self._ends = prefill, max_new_tokens - 1, ends
        self._precision = precision
        self._same_batch = same_batch
        self._waiting: list[PendingStack] = []

    @property
    def n_rows(self) -> int:
        """Sequences that wait."""
        return sum(len(w.firsts.token_r) for w in self._waiting)

    def add(self, waiting: PendingStack) -> Iterator[CellAnswers]:
        """Add a stack; its answers are ready at once where only first tokens are needed."""
        if self._n_more < 1:
            yield from self._answers(waiting, None)
        else:
            self._waiting.append(waiting)

    @torch.inference_mode()
    def flush(self) -> list[CellAnswers]:
        """Decode all that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        n_seq = self._prefill.prompts.n_seq
        open_rows = [self._open_rows(w) for w in waiting]
        merged = {
            layer: self._merge(waiting, open_rows, layer)
            for layer in range(min(w.layer for w in waiting) + 1, self._prefill.parts.sharing.n_own)
        }
        samples = torch.cat(open_rows) % n_seq
        first_r = torch.cat([w.firsts.token_r[rows] for w, rows in zip(waiting, open_rows, strict=True)])
        start = start_of(
            self._prefill, first_r, merged, n_more=self._n_more, same_batch=self._same_batch, samples=samples
        )
        del merged
        done = decode_greedily(
            self._prefill.loaded, start, n_more=self._n_more, ends=self._ends, same_batch=self._same_batch
        )
        answers: list[CellAnswers] = []
        at = 0
        for w, rows in zip(waiting, open_rows, strict=True):
            answers += self._answers(w, _spread(done, at, rows, n_rows=len(w.firsts.token_r)))
            at += len(rows)
        return answers

    def _open_rows(self, waiting: PendingStack) -> torch.Tensor:
        """Rows of a stack that go on after their first token."""
        token_r = waiting.firsts.token_r
        if self._same_batch:
            return torch.arange(len(token_r), device=token_r.device)
        ends = torch.tensor(sorted(self._ends), dtype=token_r.dtype, device=token_r.device)
        return (~torch.isin(token_r, ends)).nonzero()[:, 0]

    def _merge(self, waiting: list[PendingStack], open_rows: list[torch.Tensor], layer: int) -> KeysValues:
        """Keys and values of one block for all open rows: a branch's own above its layer, the unsteered ones below."""
        n_seq = self._prefill.prompts.n_seq
        parts: list[KeysValues] = []
        for w, rows in zip(waiting, open_rows, strict=True):
            pair, at = (
                (w.keys_values[layer], rows) if layer > w.layer else (self._prefill.keys_values[layer], rows % n_seq)
            )
            parts.append((pair[0][at], pair[1][at]))
        if len(parts) == 1:
            return parts[0]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _answers(self, waiting: PendingStack, more: DecodedTokens | None) -> Iterator[CellAnswers]:
        n_seq = self._prefill.prompts.n_seq
        prefill = self._prefill
        for i, key in enumerate(waiting.keys):
            rows = slice(i * n_seq, (i + 1) * n_seq)
            part = (
                None if more is None else DecodedTokens(**{n: getattr(more, n)[rows] for n in DecodedTokens.__slots__})
            )
            firsts = waiting.firsts.rows(rows)
            yield make_answers(key, firsts, part, ends=self._ends, precision=self._precision, how=(prefill.mode, None))


def start_of(
    prefill: Prefill,
    first_r: torch.Tensor,
    above: Mapping[int, KeysValues],
    *,
    n_more: int,
    same_batch: bool,
    samples: torch.Tensor | None = None,
) -> DecodeStart:
    """Where decoding begins; `samples` (r,) says which sample of the batch each row is, `above` holds what branches changed.

    Prompts padded on the right are shifted to the left padding that decoding wants, so that a sliding window counts tokens
    and not padding. Keys carry their position in them, so shifting columns is exact.
    """

    def pick(x: torch.Tensor) -> torch.Tensor:
        return x if samples is None or same_batch else x[samples]

    pairs = [
        above[layer] if layer in above else (pick(pair[0]), pick(pair[1]))
        for layer, pair in sorted(prefill.keys_values.items())
    ]
    real_rt = pick(prefill.prompts.tokens.real_bt)
    shift_r = prefill.prompts.n_tokens - 1 - pick(prefill.prompts.last_b)
    if bool(shift_r.any()):
        columns = torch.arange(prefill.prompts.n_tokens, device=real_rt.device)
        order_rt = (columns - shift_r[:, None]) % prefill.prompts.n_tokens
        pairs = [(_in_order(keys, order_rt), _in_order(values, order_rt)) for keys, values in pairs]
        real_rt = real_rt.gather(1, order_rt)
    cache = filled_cache(prefill.loaded, pairs, room=None if same_batch else n_more)
    return DecodeStart(cache=cache, real_rt=real_rt, first_r=first_r, next_r=pick(prefill.next_b))


def _in_order(x_rhtd: torch.Tensor, order_rt: torch.Tensor) -> torch.Tensor:
    return x_rhtd.gather(2, order_rt[:, None, :, None].expand(-1, x_rhtd.shape[1], -1, x_rhtd.shape[3]))


def _spread(done: DecodedTokens, at: int, rows: torch.Tensor, *, n_rows: int) -> DecodedTokens:
    """What was decoded for some rows of a stack, for all its rows; one that ended at once has nothing more."""
    tokens = done.tokens_rn.new_full((n_rows, done.tokens_rn.shape[1]), -1)
    gap, scale = done.gap_r.new_full((n_rows,), torch.inf), done.scale_r.new_zeros(n_rows)
    finite = done.finite_r.new_ones(n_rows)
    part = slice(at, at + len(rows))
    tokens[rows], gap[rows], scale[rows] = done.tokens_rn[part], done.gap_r[part], done.scale_r[part]
    finite[rows] = done.finite_r[part]
    return DecodedTokens(tokens_rn=tokens, gap_r=gap, scale_r=scale, finite_r=finite)
