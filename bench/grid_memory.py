"""Peak memory of an exact grid beside the budget asked for, as the operating system counts it, in a process of its own.

Counted is the highest the grid gets above what the process held when it began: the loaded model, after an ordinary forward pass
over the batch. The kernel's mark is set back first (Linux), or the model's loading would hide the grid. The larger budget shows
that the grid uses what it is given, so that keeping within the smaller one is no accident.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.cells import batch_of, layers_of, make_grid, open_model, questions, random_vector, row_norms, run_exactly
from bench.loops import encode
from bench.turns import Row
from steercache import zoo
from steercache.cache.handle import open_cache
from steercache.queries.session import open_session

N_QUESTIONS = 12
BUDGETS_MIB = (256, 1024)
EVERY = 4  # layers
CODE = "import sys; from bench.grid_memory import child; child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"


def in_ram_mib(which: str) -> float:
    """What this process has in RAM: now (VmRSS), or at most since `forget_peak` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) / 1024


def forget_peak() -> None:
    """Set the kernel's high-water mark of this process back to what it has now."""
    Path("/proc/self/clear_refs").write_text("5")


def child(model: str, root: str, n: int, budget_mib: int) -> None:
    """Run a part of the grid within a budget, and print the peaks before and after."""
    folder = Path(root)
    loaded = open_model(model, folder / "models")
    asked = questions(loaded, "Relation", n=n)
    with torch.inference_mode():
        loaded.model(**encode(loaded, asked.examples), use_cache=False, logits_to_keep=1)
    vector = random_vector(loaded, row_norms(loaded, asked.asked, "image"))
    layers = layers_of(loaded)[::EVERY]
    grid = make_grid(loaded, vector, "image", layers=layers, memory_mib=budget_mib)
    open_cache(folder / "root", create=True)
    session = open_session(folder / "root")
    n_tokens = batch_of(loaded, asked.asked).input_ids.numel()
    forget_peak()
    before = in_ram_mib("VmRSS")
    run_exactly(session, loaded, asked.asked, grid)
    found = {"before_mib": before, "peak_mib": in_ram_mib("VmHWM"), "n_cells": len(grid.settings)}
    print(json.dumps(found | {"n_tokens": n_tokens}))


def run(
    folder: Path | None = None, *, model: str = "demo", n: int = N_QUESTIONS, budgets: Sequence[int] = BUDGETS_MIB
) -> list[Row]:
    """One line for every budget; under a minute on two quiet cores."""
    rows: list[Row] = []
    work = Path(tempfile.mkdtemp(prefix="bench-grid-memory-", dir=folder))
    try:
        zoo.build(model, work / "models" / "models" / f"zoo-{model}")  # once, outside of what is measured
        for budget in budgets:
            shutil.rmtree(work / "root", ignore_errors=True)
            command = [sys.executable, "-c", CODE, model, str(work), str(n), str(budget)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(said.splitlines()[-1])
            grown = found["peak_mib"] - found["before_mib"]
            name = (
                f"exact grid, {found['n_cells']} cells x {n} questions: memory beyond the model's, budget {budget} MiB"
            )
            rows.append({"name": name, "value_mib": grown, "target": f"<= {budget}", "met": grown <= budget, **found})
    finally:
        shutil.rmtree(work)
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
