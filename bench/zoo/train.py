"""Training again: `python -m bench.zoo.train tiny|demo [--out FOLDER]`. Fixed seeds; *demo* resumes after a kill."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from steercache.core.errors import SteercacheError
from steercache.zoo.shelf import DEMO


def train(name: str, out: Path, *, keep_tower: bool, stop_here: bool) -> None:
    """Trains one model into a folder; both flags are for *demo*."""
    if name == "tiny":
        from bench.zoo.tiny.train import train_tiny

        train_tiny(out)
        return
    from bench.zoo.demo.language import LanguageRecipe
    from bench.zoo.demo.train import train_demo

    recipe = LanguageRecipe(n_steps=0) if stop_here else LanguageRecipe()
    train_demo(out, shipped=DEMO / "delta.safetensors" if keep_tower else None, recipe=recipe)


# Large tensors come and go at every step. glibc gives each back to the kernel at once and faults it in again, which was
# half of the time here; these settings keep the memory. They only work if set before the process starts.
ALLOCATOR: Final = (
    "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.top_pad=268435456:glibc.malloc.arena_max=1"
)

# Threads that sleep while they wait for each other cost a tenth on an idle machine; threads that spin made a step ten times
# longer as soon as one other job ran beside it.
PATIENT: Final = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def default_out(name: str) -> Path:
    """`~/.cache/steercache/zoo/<name>`."""
    return Path.home() / ".cache" / "steercache" / "zoo" / name


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints the losses and held-out scores as it goes."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo.train", description=__doc__)
    parser.add_argument("name", choices=["tiny", "demo"])
    parser.add_argument("--out", type=Path, help="the folder for checkpoints and results")
    parser.add_argument(
        "--keep-tower", action="store_true", help="demo: take tower and connector from the weights that ship"
    )
    parser.add_argument(
        "--stop-here", action="store_true", help="demo: no more steps, write the last checkpoint's weights"
    )
    args = parser.parse_args(argv)
    if argv is None and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ |= {"GLIBC_TUNABLES": ALLOCATOR, **PATIENT}
        os.execv(sys.executable, [sys.executable, "-m", "bench.zoo.train", *sys.argv[1:]])
    try:
        train(args.name, args.out or default_out(args.name), keep_tower=args.keep_tower, stop_here=args.stop_here)
    except SteercacheError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
