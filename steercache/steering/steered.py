"""A model that is steered whenever it is called: an object that other packages take for the model itself.

The object is of a subclass of the model's own class and shares its modules and weights. `generate` and forward passes put
hooks on the blocks for as long as they run, in their own thread only: the model that it was made of, and other such objects,
stay as they are. As a context manager it steers the model itself instead, in every thread, until the context is left.
"""

import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from steercache.core.errors import UsageError
from steercache.core.operations import OF_SHARES, Operation
from steercache.core.trials import AlphaUnit
from steercache.core.vector_use import Phase, VectorUse
from steercache.core.vectors import SteeringVector
from steercache.steering.foreign import warn_if_foreign
from steercache.steering.live import Strength, checked, resolved, several
from steercache.steering.live_hooks import PlacedChange, applied
from steercache.steering.parts import ModelParts
from steercache.steering.targets import TargetLike
from steercache.steering.token_rule import TokenRule, When

WHEN_OF: Final[Mapping[Phase, When]] = {"prompt": "prefill", "generated": "generated", "both": "every"}
_STATE: Final = "_steercache_state"


def steered(
    model: Any,
    vector: SteeringVector | Sequence[SteeringVector],
    *,
    layer: int | Sequence[int] | None = None,
    alpha: float | None = None,
    operation: Operation | str | None = None,
    target: TargetLike | None = None,
    phase: Phase | None = None,
    alpha_unit: AlphaUnit | None = None,
    skip_first: bool | None = None,
    n_generated: int | None = None,
    place: str | None = None,
    tokenizer: Any = None,
) -> Any:
    """`model` with alpha times `vector` added to the output of block `layer`, as an object that can be used in its place.

    `model` is a transformers model or a LoadedModel; the object shares its weights. Use it where a model is expected, for
    instance `HFLM(pretrained=steered(...))` of lm-eval, or `with steered(...):` to steer the model itself until the context
    is left. `phase` says which tokens of a text: those of the "prompt", the "generated" ones or "both"; every token that one
    forward pass without a cache reads belongs to the prompt, an answer whose likelihood is taken as well. What is not given
    (layer, strength, unit, operation, place, target, phase, `skip_first`, `n_generated`) is that of `vector.use`, else to add,
    the output of the block (outputs of heads for a vector of `head_out`), all tokens of the prompt and raw units.
    The other parameters are those of `steer` (a mask as target has shape (b, t)); strength 0 is the model itself, bit for bit.

    Several can be nested, each adds its own. A batch of several sequences without an attention mask is steered with the target
    all or a mask only: the others depend on where the padding is.

    Warns (`ForeignVectorWarning`) as `steer`.

    Raises:
        UsageError: as `steer`; no layer or no strength was given, and the vector does not carry them.
        NotFoundError: the model's type is not in the table of families.
    """
    use = vector.use if isinstance(vector, SteeringVector) else None
    known = use or VectorUse()
    if layer is None:
        layer = known.layers
    if alpha is None:
        alpha, alpha_unit = known.strength, known.strength_unit if alpha_unit is None else alpha_unit
    if alpha is None and use is not None and use.operation in OF_SHARES:
        alpha = 1.0
    if layer is None or alpha is None:
        raise UsageError(
            f"no {'layer' if layer is None else 'strength'} was given, and the vector does not carry one",
            hint="steered(model, vector, layer=..., alpha=...)",
        )
    if operation is None:
        numbers = ",".join(f"{name}={value}" for name, value in known.parameters.items())
        operation = f"{known.operation}:{numbers}" if numbers else known.operation
    phase = phase or known.phase
    if phase not in WHEN_OF:
        raise UsageError(f"no phase named {phase!r}", hint=f"choose one of: {', '.join(WHEN_OF)}")
    rule = TokenRule(
        target=resolved(known.target if target is None else target, vector),
        when=WHEN_OF[phase],
        skip_first=known.skip_first if skip_first is None else skip_first,
        masked=True,
        n_generated=known.n_generated if n_generated is None else n_generated,
    )
    before: tuple[_Setting, ...] = getattr(model, _STATE).settings if isinstance(model, _Steered) else ()
    if place is None and use is not None:
        place = use.place
    strength = Strength(layer=layer, alpha=alpha, unit=alpha_unit or "raw", operation=operation, place=place)
    parts, changes = checked(model, vector, strength, rule, tokenizer=tokenizer)
    for one in several(vector):
        warn_if_foreign(model, one)
    settings = (*before, _Setting(parts=parts, changes=changes, rule=rule)) if changes else before
    return _as_steered(parts.model, settings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Setting:
    """What one call of `steered` adds, and where."""

    parts: ModelParts = field(repr=False)
    changes: Mapping[int, PlacedChange] = field(repr=False)
    rule: TokenRule


class _State:
    """What an object adds, and whether its hooks are in place: in the thread that asks, or in all."""

    def __init__(self, settings: tuple[_Setting, ...]) -> None:
        self.settings = settings
        self.open: ExitStack | None = None
        self._here = threading.local()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Hooks for the passes of this thread, unless they are there."""
        if self.open is not None or getattr(self._here, "active", False):
            yield
            return
        with self._hooks(threading.get_ident()):
            self._here.active = True
            try:
                yield
            finally:
                self._here.active = False

    def enter(self) -> None:
        """Hooks for all threads, until `leave`."""
        if self.open is not None:
            raise UsageError("this context is open already", hint="steered(...) again for another one")
        self.open = self._hooks(None)

    def leave(self) -> None:
        """Take the hooks of `enter` away."""
        hooks, self.open = self.open, None
        if hooks is not None:
            hooks.close()

    @property
    def active(self) -> bool:
        """Whether a pass in this thread is steered already."""
        return self.open is not None or getattr(self._here, "active", False)

    def _hooks(self, thread: int | None) -> ExitStack:
        with ExitStack() as stack:
            for one in self.settings:
                stack.enter_context(applied(one.parts, one.changes, one.rule, thread=thread))
            return stack.pop_all()


class _Steered:
    """What the class of a steered object has before its model's own class."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with getattr(self, _STATE).in_place():
            return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, steered."""
        with getattr(self, _STATE).in_place():
            return super().generate(*args, **kwargs)  # type: ignore[misc]

    def __enter__(self) -> Self:
        getattr(self, _STATE).enter()
        return self

    def __exit__(self, *error: object) -> None:
        getattr(self, _STATE).leave()


def _as_steered(model: Any, settings: tuple[_Setting, ...]) -> Any:
    """An object that shares everything with `model` and is steered when it is called."""
    made = copy.copy(model)
    if not isinstance(model, _Steered):
        own: Any = type(model)
        made.__class__ = _steered_class(own)
    object.__setattr__(made, _STATE, _State(settings))
    return made


@functools.cache
def _steered_class(of: Any) -> type:
    """A subclass under the same name, whose `forward` has the same signature: transformers reads it."""
    own: Callable[..., Any] = of.forward

    @functools.wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return own(self, *args, **kwargs) if getattr(self, _STATE).active else self(*args, **kwargs)

    body = {"forward": forward, "__module__": of.__module__, "__doc__": of.__doc__, "__qualname__": of.__qualname__}
    return type(of.__name__, (_Steered, of), body)
