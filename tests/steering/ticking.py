"""A clock that only a model's parts move: what they cost is planted, and measured without waiting."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from steercache.models.family import find_module
from steercache.models.spec import LoadedModel
from steercache.steering.costs import ForwardCosts

CALL, TOKEN, HEAD, PICTURE = 2e-6, 1e-8, 5e-7, 3e-6


@dataclass(slots=True)
class Clock:
    """Seconds since it was made."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now


@contextmanager
def ticking(loaded: LoadedModel) -> Iterator[Clock]:
    """Blocks take CALL and TOKEN for each token, logits HEAD a row, the vision tower PICTURE a picture."""
    clock = Clock()

    def after(call: float, each: float, axis: int) -> Any:
        def hook(module: Any, args: Any, out: Any) -> None:
            if "forward" in vars(module):
                return  # an idle block, which hands its input on
            hidden = getattr(out, "last_hidden_state", out[0] if isinstance(out, tuple) else out)
            n = hidden.shape[0] if axis == 1 else hidden.shape[:-1].numel()
            clock.now += call + each * n

        return hook

    family = loaded.family
    with ExitStack() as stack:
        for block in find_module(loaded.model, family.blocks):
            stack.callback(block.register_forward_hook(after(CALL, TOKEN, 2)).remove)
        head = find_module(loaded.model, family.lm_head)
        stack.callback(head.register_forward_hook(after(0.0, HEAD, 2)).remove)
        if family.vision is not None:
            tower = find_module(loaded.model, family.vision)
            stack.callback(tower.register_forward_hook(after(0.0, PICTURE, 1)).remove)
        yield clock


def planted(n_layers: int) -> ForwardCosts:
    """What that clock has to give."""
    return ForwardCosts(
        block_call_s=CALL,
        block_token_s=TOKEN,
        head_row_s=HEAD,
        full_head_row_s=HEAD,
        picture_s=PICTURE,
        step_s=n_layers * CALL,
        step_row_s=n_layers * TOKEN + HEAD,
    )
