"""Taking in a vLLM folder against copying the same bytes with the same fsyncs: `python -m bench.exchange` prints JSON.

128 requests of 512 tokens, 4 entries of 2,048 bfloat16 values, 8 MiB a file. The copy reads every file and writes its bytes
into one file per shard with a call each, waits for the disk, and gives it its name; as the import does. Warm page cache.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import steercache
from bench.turns import take_turns

N, TOKENS, ENTRIES, WIDTH = 128, 512, (1, 8, 16, 24), 2048
PER_SHARD = 32  # 256 MiB, as the shards of a run
TURNS = 5


def write_folder(folder: Path) -> None:
    """The folder as vLLM's connector writes it."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TOKENS, len(ENTRIES), WIDTH, generator=generator).to(torch.bfloat16)
    for i in range(N):
        ids = torch.randint(0, 30_000, (TOKENS,), generator=generator)
        save_file({"hidden_states": states, "token_ids": ids}, folder / f"{i}.safetensors")


def copy_plainly(source: Path, target: Path) -> None:
    """The same bytes by plain calls."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    files = sorted(source.glob("*.safetensors"))
    for first in range(0, len(files), PER_SHARD):
        fd = os.open(target / "tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for path in files[first : first + PER_SHARD]:
            os.write(fd, path.read_bytes())
        os.fsync(fd)
        os.close(fd)
        os.rename(target / "tmp", target / f"{first}")
        folder = os.open(target, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def import_once(source: Path, root: Path) -> None:
    """A new cache with the folder's run."""
    shutil.rmtree(root, ignore_errors=True)
    cache = steercache.open(root, create=True)
    cache.import_activations(source, source_format="vllm", model="large", n_layers=32, entries=ENTRIES, progress=False)


def run() -> Iterator[dict[str, Any]]:
    """The rows of the report."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        folder = Path(name)
        write_folder(folder / "hs")
        yield take_turns(
            "vLLM folder of 1 GiB against copying its bytes with the same fsyncs",
            lambda: import_once(folder / "hs", folder / "root"),
            lambda: copy_plainly(folder / "hs", folder / "copy"),
            n=TURNS,
            target=">= 0.8",
        )


if __name__ == "__main__":
    json.dump(list(run()), sys.stdout, indent=2)
