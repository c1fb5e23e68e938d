"""Blocks that hand on several residual streams side by side, and the one of them that is read and steered.

Source: AltUp (arXiv 2301.13310), as in Gemma 3n. A block takes and gives streams (k, b, t, d). Attention and MLP read a
prediction of the active one, made of all k, and what they compute corrects all k. Behind the last block the streams are
projected back, scaled to the length of the active one, and averaged. The hidden state of a token, here, is the active stream:
it begins as the token's embedding, and a change of it reaches the other streams in the next block.
"""

from typing import Any

import torch

from steercache.models.family import Family


def active_stream(family: Family, config: Any) -> int | None:
    """Which of a block's streams is read and steered; None where there is one only."""
    return None if family.stream is None else int(getattr(config.get_text_config(), family.stream))


def hidden_of(value: Any, stream: int | None) -> torch.Tensor:
    """The hidden states (b, t, d) of what a block takes or gives: a tensor, or a tuple that begins with one."""
    first: torch.Tensor = value[0] if isinstance(value, tuple) else value
    return first if stream is None else first[stream]


def with_hidden(value: Any, hidden_btd: torch.Tensor, stream: int | None) -> Any:
    """The same with other hidden states; the other streams stay."""
    if stream is not None:
        streams = (value[0] if isinstance(value, tuple) else value).clone()
        streams[stream] = hidden_btd
        hidden_btd = streams
    return (hidden_btd, *value[1:]) if isinstance(value, tuple) else hidden_btd


def merged(decoder: Any, whole: torch.Tensor, stream: int | None) -> torch.Tensor:
    """What the final norm gets (b, t, d), from what the last block gives: as Gemma 3n's text model computes it."""
    if stream is None:
        return whole
    length = torch.mean(whole[0] ** 2, dim=-1, keepdim=True) ** 0.5
    parts = [whole[0]]
    for projection, one in zip(decoder.altup_unembed_projections, whole[1:], strict=True):
        projected = projection(one)
        own = torch.sqrt(torch.mean(projected**2, dim=-1, keepdim=True).clamp(min=1e-5))
        parts.append(projected * length / own)
    return torch.stack(parts).mean(dim=0)


def rows_obstacle(family: Family, config: Any) -> str | None:
    """Why a pass cannot begin from rows of this model's hidden states, as runs keep them."""
    if family.stream is None:
        return None
    n = int(config.get_text_config().altup_num_inputs)
    return f"its blocks hand on {n} residual streams (AltUp), and a run keeps the active one alone"
