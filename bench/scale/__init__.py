"""Very large runs: the coordinator at 100,000 shards and 500 workers, and metadata of 10 billion token rows.

`python -m bench scale` runs the coordinator at a tenth of the size; `python -m bench.scale.coordinator` at any. Costs are
reckoned by `python -m bench.scale.costs`.
"""

from typing import Any

N_SHARDS, N_WORKERS = 10_000, 500
MOST_MS, MOST_MIB = 5.0, 1e9 / 2**20
MILLIONS = (10, 30)


def run(*, n_shards: int = N_SHARDS, millions: tuple[int, ...] = MILLIONS) -> list[dict[str, Any]]:
    """Rows for the table of results."""
    from bench.scale.coordinator import in_own_process
    from bench.scale.rows import measure

    found = in_own_process(n_shards=n_shards, n_workers=N_WORKERS)
    at = f"{n_shards:,} shards, {N_WORKERS} workers"
    per_shard = {
        "name": f"coordinator's own time per shard in ms, {at}",
        "value": found["overhead_ms"],
        "target": f"< {MOST_MS:g}",
        "met": found["overhead_ms"] < MOST_MS,
    }
    memory = {
        "name": f"peak memory of the coordinator, {at}",
        "value_mib": found["memory_mib"],
        "target": "< 1 GB",
        "met": found["memory_mib"] < MOST_MIB,
    }
    rows = [
        {
            "name": f"{name}, 10 G token rows by the line through {' and '.join(map(str, millions))} M",
            "value_s": seconds,
            "target": "for information",
            "met": True,
        }
        for name, seconds in measure(millions)["at_10_g"].items()
    ]
    return [per_shard, memory, *rows]
