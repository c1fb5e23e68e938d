"""Where in a block a change is applied, as a module and one side of it: the sites of a vector's use."""

from dataclasses import dataclass, field
from typing import Any, Final, get_args

from steercache.core.errors import UsageError
from steercache.core.vector_use import PlaceName
from steercache.core.vectors import SteeringVector
from steercache.models.family import Family, find_module, find_part
from steercache.models.heads import head_projection, heads_of
from steercache.models.streams import active_stream

PLACES: Final = get_args(PlaceName)
IN_ORDER: Final[tuple[PlaceName, ...]] = ("resid_pre", "head_out", "attn_out", "mlp_out", "resid_post")
"""The places of one block in the order in which a pass reaches them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A module whose output is changed, or whose input is; of several residual streams, `stream`."""

    module: Any = field(repr=False)
    is_input: bool
    stream: int | None = None


def place_of_site(site: str) -> PlaceName:
    """Where a vector of a site is applied by default: outputs of heads are where they were read, all others at the output of
    the block, since they lie in the residual stream."""
    return "head_out" if site == "head_out" else "resid_post"


def block_below(place: PlaceName, layer: int) -> int:
    """The block whose output is the last that a change at this place leaves as it was: what a branch starts from. -1 stands for
    the input of block 0."""
    return layer if place == "resid_post" else layer - 1


def check_place(place: str) -> PlaceName:
    """Raises UsageError for a place that there is not."""
    for known in PLACES:
        if place == known:
            found: PlaceName = known
            return found
    raise UsageError(f"no place named {place!r}", hint=f"choose one of: {', '.join(PLACES)}")


def check_site(vector: SteeringVector, place: str) -> None:
    """Raises UsageError where a vector of its site has no meaning at a place."""
    if (vector.site == "head_out") != (place == "head_out"):
        raise UsageError(
            f"{vector.name!r} was fitted at {vector.site}, and cannot be applied at {place}",
            hint="outputs of heads lie in a space of their own: head_out for vectors of head_out only",
        )
    if vector.site == "resid_pre" and place == "resid_post":
        raise UsageError(
            f"{vector.name!r} was fitted on the blocks' input, and steering adds at their output",
            hint="the place resid_pre; or fit it at resid_post: that of block l is resid_pre of block l + 1",
        )


def width_of_place(model: Any, place: PlaceName) -> int:
    """Width of a hidden state there. Raises UsageError for heads that cannot be told apart (`models.heads`)."""
    config = model.config
    return heads_of(config).joined if place == "head_out" else int(config.get_text_config().hidden_size)


def find_place(model: Any, family: Family, block: Any, *, place: PlaceName, layer: int) -> Place:
    """The module of one block.

    Raises:
        UsageError: the model has no such place.
    """
    if place == "head_out":
        path = head_projection(block, heads=heads_of(model.config), layer=layer)
        return Place(module=find_module(block, path), is_input=True)
    if place in ("attn_out", "mlp_out"):
        path = family.attn_out if place == "attn_out" else family.mlp_out
        if not path:
            raise UsageError(f"no {place} in this model: its blocks are not the sum of two parts", hint="resid_post")
        return Place(module=find_part(block, path), is_input=False)
    return Place(module=block, is_input=place == "resid_pre", stream=active_stream(family, model.config))
