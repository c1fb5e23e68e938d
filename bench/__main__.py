"""`python -m bench [NAME...]`: run the benchmarks, print a table, write `bench/results/latest.json`."""

import importlib
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAMES = ("store", "build", "multimodal", "fit", "index", "memory", "evaluate")
RESULTS = Path("bench/results/latest.json")


def main(names: list[str]) -> None:
    """Run each benchmark in turn, so that none disturbs another."""
    rows: list[dict[str, Any]] = []
    for name in names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in importlib.import_module(f"bench.{name}").run():
            rows.append({"bench": name, **row})
            print(line_of(row), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    when = datetime.now(UTC).isoformat(timespec="minutes")
    RESULTS.write_text(json.dumps({"when": when, "machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"written to {RESULTS}", file=sys.stderr)


def line_of(row: dict[str, Any]) -> str:
    """One row for people."""
    measured = next(f"{row[key]:.3g} {unit}" for key, unit in UNITS if key in row)
    return f"{'ok  ' if row['met'] else 'MISS'} {row['name']}: {measured} (target {row['target']})"


UNITS = (("ratio", "x"), ("value_s", "s"), ("value_mib", "MiB"))

if __name__ == "__main__":
    main(sys.argv[1:])
