"""Peak memory of a build over 1,000 and over 100,000 sentences: the data set's size must not show.

Each build runs in a process of its own; the peak is the operating system's (VmHWM: ru_maxrss would begin at what this process,
its parent, has had). A third process only imports and
loads what a build needs, and runs one batch: the model and a few batches, without the build.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.texts import write_texts, write_trace
from bench.turns import Row, fast_dtype

MIB = 2**20
ALLOWED_MIB = 300
CODE = """
import sys
from pathlib import Path
from steercache.runs.engine import build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from steercache.cache.handle import open_cache
prepared = prepare_trace(Path(sys.argv[1]), cache_root=Path(sys.argv[2]), device="cpu", dtype=sys.argv[4])
if sys.argv[3] == "build":
    cache = open_cache(Path(sys.argv[2]), create=True)
    build_run(cache, plan_run(prepared.job, cache=cache), prepared)
else:
    from steercache.runs.inputs import InputStream
    from steercache.trace.batches import pad_batch
    from steercache.trace.capture import make_capture
    loaded = prepared.load()
    samples = InputStream(prepared.job.datasets, prepared.job.bundle, max_tokens=None).take(0, 64)
    batch = pad_batch([s.encoded for s in samples], padding_side="right", pad_id=0)
    make_capture(loaded, sites=["resid_post"], layers=[10, 20])(batch)
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
"""


def peak_bytes(work: Path, n: int, *, what: str) -> int:
    """Peak memory of one process."""
    folder = work / f"{what}{n}"
    folder.mkdir()
    write_texts(folder, n=n, sentences=(1, 1))
    write_trace(folder, layers=[0], rows={"policy": "last"})
    command = [sys.executable, "-c", CODE, str(folder / "trace.yaml"), str(work / "root"), what, fast_dtype()]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout
    return int(said.split()[-1])


def run(folder: Path | None = None, *, many: int = 100_000) -> list[Row]:
    """Peak of both builds, above the model and a batch."""
    work = Path(tempfile.mkdtemp(prefix="bench-memory-", dir=folder))
    try:
        floor = peak_bytes(work, 1000, what="batch")
        few, more = (peak_bytes(work, n, what="build") for n in (1000, many))
    finally:
        shutil.rmtree(work)
    above = [(peak - floor) / MIB for peak in (few, more)]
    return [
        {
            "name": f"peak memory of a build above model and one batch, {n:,} sentences",
            "value_mib": round(mib, 1),
            "target": f"<= {ALLOWED_MIB} MiB",
            "met": mib <= ALLOWED_MIB,
        }
        for n, mib in zip((1000, many), above, strict=True)
    ]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
