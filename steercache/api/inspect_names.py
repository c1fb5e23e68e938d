"""How a model of the provider `steercache` is named in inspect_ai: the model, and after a `?` how it is steered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints
from urllib.parse import parse_qsl

from steercache.core.errors import UsageError
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vector_use import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """What follows the `?` of a model's name, or comes as model arguments (`-M`); without `vector` the model is not steered.

    `layer` may name several blocks, as in 6,7. `root` is the cache that holds the vector.
    """

    vector: str | None = None
    layer: tuple[int, ...] | None = None
    alpha: float | None = None
    alpha_unit: AlphaUnit | None = None
    target: Target | None = None
    phase: Phase | None = None
    skip_first: bool | None = None
    root: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    allow_foreign: bool = False


def read_model_name(name: str, arguments: Mapping[str, Any]) -> tuple[str, Steering]:
    """The model's own name, and how it is steered.

    >>> model, steering = read_model_name("tiny?vector=counting&layer=2,3&alpha=1.5", {"target": "text"})
    >>> model, steering.layer, steering.alpha, steering.target
    ('tiny', (2, 3), 1.5, 'text')

    Raises:
        UsageError: a part that is not known, is given twice, or has a value that it cannot have.
    """
    model, _, query = name.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise UsageError(f"cannot read {query!r}", hint="MODEL?vector=NAME&layer=6&alpha=2") from None
    given: list[tuple[str, Any]] = [*pairs, *arguments.items()]
    known = [one.name for one in fields(Steering)]
    for key, _ in given:
        if key not in known:
            raise UsageError(f"a steered model has no {key!r}", hint=f"choose from: {', '.join(known)}")
        if sum(other == key for other, _ in given) > 1:
            raise UsageError(f"{key!r} is given twice")
    types = get_type_hints(Steering)
    return model, Steering(**{key: _read(key, value, types[key]) for key, value in given})


def _read(key: str, value: Any, wanted: Any) -> Any:
    kinds = [kind for kind in (get_args(wanted) or (wanted,)) if kind is not type(None)]
    choices = [one for kind in kinds for one in (get_args(kind) if not isinstance(kind, str) else (kind,))]
    try:
        if key == "layer":
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(int(part) for part in parts) if isinstance(parts, Sequence) else (int(parts),)
        if float in kinds:
            return float(value)
        if bool in kinds:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
    except (ValueError, KeyError):
        raise UsageError(f"{key} cannot be {value!r}") from None
    if str not in kinds and value not in choices:
        raise UsageError(f"{key} cannot be {value!r}", hint=f"choose one of: {', '.join(map(str, choices))}")
    return str(value)
