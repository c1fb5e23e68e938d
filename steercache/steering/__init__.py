"""What to add to a model's residual stream, where, and how much; live in a model, and what it does to the next token.

This room owns the one function that adds a vector (`steer.add`), so that a live run, a replay and a branch round alike. It
refuses to score benchmarks (evals), to fit anything (fit), and to change a model's weights.

The module itself can be called, so that the shortest name does the commonest thing:

    with steercache.steer(model, vec, layer=12, alpha=0.6):
        model.generate(...)

A plain function under that name in `steercache` would hide this module, and `import steercache.steer` would then put the
module back in its place: which of the two one gets would hang on what was imported before. A module whose class has
`__call__` is both, always.
"""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from steercache.core.errors import MissingExtraError
from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector

if find_spec("torch") is None:
    raise MissingExtraError("steering a model needs torch", hint="pip install 'steercache[models]'")

from steercache.steering.live import When, steer
from steercache.steering.targets import TargetLike

__all__ = ["steer"]


class _CallableRoom(ModuleType):
    """This room, which is also the function `steer`."""

    def __call__(
        self,
        model: Any,
        vector: SteeringVector,
        *,
        layer: int | Sequence[int],
        alpha: float,
        target: TargetLike = "all",
        when: When = "prefill",
        alpha_unit: AlphaUnit = "raw",
        skip_first: bool = False,
        tokenizer: Any = None,
    ) -> AbstractContextManager[Any]:
        return steer(
            model,
            vector,
            layer=layer,
            alpha=alpha,
            target=target,
            when=when,
            alpha_unit=alpha_unit,
            skip_first=skip_first,
            tokenizer=tokenizer,
        )

    __call__.__doc__ = steer.__doc__


sys.modules[__name__].__class__ = _CallableRoom
