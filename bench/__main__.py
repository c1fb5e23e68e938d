"""`python -m bench [NAME...]`: run the benchmarks, print a table, write `bench/results/latest.json`.

Each benchmark's rows are written when it is done, in the place of its rows of earlier runs; those of the others stay. Every row
says when it was measured.
"""

import importlib
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAMES = (
    "store", "build", "multimodal", "fit", "index", "memory", "evaluate", "grid", "grid_memory", "screening",
    "screening_speed", "shortcuts", "sae", "sae_training", "exchange", "remote", "report", "operations", "combined",
    "targets", "derive", "scale", "ray",
)  # fmt: skip
RESULTS = Path("bench/results/latest.json")


def main(names: Sequence[str]) -> None:
    """Run each benchmark in turn, so that none disturbs another."""
    if unknown := sorted({*names} - {*NAMES}):
        raise SystemExit(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    for name in names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows = []
        for row in importlib.import_module(f"bench.{name}").run():
            rows.append(row)
            print(line_of(row), flush=True)
        keep(RESULTS, name, rows)
    print(f"written to {RESULTS}", file=sys.stderr)


def keep(path: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Put one benchmark's rows in the place of those it had in the file, in the order of `NAMES`."""
    now = datetime.now(UTC).isoformat(timespec="minutes")
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    merged = [row for row in known if row["bench"] != name] + [{"bench": name, "when": now, **row} for row in rows]
    merged.sort(key=lambda row: NAMES.index(row["bench"]) if row["bench"] in NAMES else len(NAMES))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"when": now, "machine": machine, "rows": merged}, indent=2) + "\n")


def line_of(row: dict[str, Any]) -> str:
    """One row for people."""
    measured = next(f"{row[key]:.3g} {unit}".rstrip() for key, unit in UNITS if key in row)
    return f"{'ok  ' if row['met'] else 'MISS'} {row['name']}: {measured} (target {row['target']})"


UNITS = (("ratio", "x"), ("value_s", "s"), ("value_mib", "MiB"), ("value", ""))

if __name__ == "__main__":
    main(sys.argv[1:])
