"""What shard records say about rows that are not finite, in words."""

from collections import Counter
from collections.abc import Iterable

from steercache.core.layout import DType, NonFinite, ShardRecord, Site

SHOWN = 6  # layers named in a sentence
REMEDIES: dict[DType, str] = {
    "float16": "trace again with `dtype: bfloat16` or float32 (float16 ends at 65504), or leave these layers out",
    "bfloat16": "leave these layers out, or look at the model: its own values overflow",
    "float32": "leave these layers out, or look at the model: its own values overflow",
}


def sum_non_finite(records: Iterable[ShardRecord]) -> tuple[NonFinite, ...]:
    """Rows that are not finite by site and layer, over shards; records that did not count add nothing."""
    counts: Counter[tuple[Site, int]] = Counter()
    for record in records:
        for part in record.non_finite or ():
            counts[part.site, part.layer] += part.n_rows
    return tuple(NonFinite(site=site, layer=layer, n_rows=n) for (site, layer), n in sorted(counts.items()))


def describe_non_finite(parts: Iterable[NonFinite], *, n_rows: int) -> str:
    """Which layers, and how many of their `n_rows` rows.

    >>> describe_non_finite([NonFinite(site="resid_post", layer=3, n_rows=2)], n_rows=64)
    'rows with infinities or NaN: resid_post layer 3: 2 of 64'
    """
    named = [f"{part.site} layer {part.layer}: {part.n_rows:,} of {n_rows:,}" for part in parts]
    more = f", and {len(named) - SHOWN} layers more" if len(named) > SHOWN else ""
    return f"rows with infinities or NaN: {', '.join(named[:SHOWN])}{more}"
