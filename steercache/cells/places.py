"""Where in a block the cells of a sweep or an evaluation change hidden states: one place for all its vectors."""

from collections.abc import Sequence
from dataclasses import replace

from steercache.cells.options import EvalOptions
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.steering.places import place_of_site


def with_place(options: EvalOptions, vectors: Sequence[SteeringVector]) -> EvalOptions:
    """The options with the place that their axes leave open: that of the vectors, outputs of heads for vectors of these.

    Raises:
        UsageError: the vectors belong to different places.
    """
    if options.axes.place is not None or not vectors:
        return options
    places = {place_of_site(one.site): one.name for one in vectors}
    if len(places) > 1:
        raise UsageError(
            f"{' and '.join(map(repr, places.values()))} belong to different places of a block: {', '.join(places)}",
            hint="one sweep for each place: outputs of heads lie in a space of their own",
        )
    return replace(options, axes=replace(options.axes, place=next(iter(places))))
