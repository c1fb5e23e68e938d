"""Speeds measured on this machine, kept beside the cache so that a plan can say how long it will take.

What was measured long ago, or on a busy machine, is not believed for ever: numbers know when they were measured, and finished
jobs correct them (`record_outcome`). Numbers only, by name. What is damaged or of another shape is measured again.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steercache.cache.lock_wait import hold_folder
from steercache.cache.paths import RootPaths
from steercache.core.ids import canonical_json
from steercache.store.durable import make_folder, write_file_atomically

READ_BYTES: Final = 32 * 2**20  # read to measure the disk
MAX_AGE_S: Final = 7 * 24 * 3600.0  # after this long a measurement is made again
LEAST_S: Final = 1.0  # a shorter job tells nothing
LEAST_TOKENS: Final = 1000  # nor does a smaller build
_DISK: Final = "disk"
_MEASURED_AT: Final = "measured_at"  # seconds since the epoch
_WEIGHT: Final = 0.5  # of the newest job in a correction
_LIMITS: Final = (1 / 16, 16.0)


def tokens_per_second(paths: RootPaths, fingerprint: str, dtype: str) -> float | None:
    """Tokens that a build of this model traced per second when it was last timed here; None when it never was."""
    speed = _read(paths).get(_key(fingerprint, dtype))
    return float(speed) if isinstance(speed, int | float) and speed > 0 else None


def record_speed(paths: RootPaths, fingerprint: str, dtype: str, *, n_tokens: int, seconds: float) -> None:
    """Remember how fast a build was, half way (on a logarithmic scale) from what earlier ones say: one build on a busy machine
    is not believed alone. A handful of tokens tells nothing and is left out."""
    if n_tokens < LEAST_TOKENS or seconds <= 0:
        return
    now = n_tokens / seconds
    before = tokens_per_second(paths, fingerprint, dtype) or now
    _record(paths, _key(fingerprint, dtype), round(before ** (1 - _WEIGHT) * now**_WEIGHT, 3))


def recorded_costs(
    paths: RootPaths, key: str, names: frozenset[str], *, max_age_s: float | None = None
) -> dict[str, float] | None:
    """What was measured under `key`; None where that is not a finite number, 0 or more, for each of `names`, or where it is
    older than `max_age_s` or does not say how old it is."""
    found = _read(paths).get(key)
    if not isinstance(found, dict) or not names <= found.keys():
        return None
    if max_age_s is not None and not _is_recent(found.get(_MEASURED_AT), max_age_s):
        return None
    numbers = [found[name] for name in names]
    if any(isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x) or x < 0 for x in numbers):
        return None
    return {name: float(found[name]) for name in names}


def record_costs(paths: RootPaths, key: str, costs: Mapping[str, float]) -> dict[str, float]:
    """Remember measured numbers under `key`, in place of what was there; returns them as they are kept, to four digits."""
    kept = {name: float(f"{value:.4g}") for name, value in costs.items()}
    _record(paths, key, kept | {_MEASURED_AT: round(time.time(), 1)})
    return kept


def correction(paths: RootPaths, key: str) -> float:
    """What a time predicted from the costs under `key` is multiplied by, as finished jobs showed; 1 where none did."""
    entry = _read(paths).get(_corrected(key))
    found = entry.get("factor") if isinstance(entry, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return 1.0
    return min(max(float(found), _LIMITS[0]), _LIMITS[1])


def record_outcome(paths: RootPaths, key: str, *, predicted_s: float, seconds: float) -> None:
    """Learn from a finished job how far its time was from the predicted one (before any correction): the first job is
    believed, every later one moves the factor half of the distance, on a logarithmic scale. Short jobs tell nothing."""
    if not (predicted_s > 0 and seconds >= LEAST_S and math.isfinite(predicted_s)):
        return
    n_jobs, now = _n_jobs(paths, key), seconds / predicted_s
    weight = _WEIGHT if n_jobs else 1.0
    factor = math.exp((1 - weight) * math.log(correction(paths, key)) + weight * math.log(now))
    kept = float(f"{min(max(factor, _LIMITS[0]), _LIMITS[1]):.4g}")
    _record(paths, _corrected(key), {"factor": kept, "n_jobs": n_jobs + 1})


def _n_jobs(paths: RootPaths, key: str) -> int:
    """How many finished jobs a correction knows of; one that does not say (of an older version) knows of one."""
    entry = _read(paths).get(_corrected(key))
    if not isinstance(entry, dict) or correction(paths, key) == 1.0:
        return 0
    found = entry.get("n_jobs", 1)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 1


def forget_outcomes(paths: RootPaths, key: str) -> None:
    """Drop the corrections of the costs under `key`, which were measured again."""
    if _corrected(key) in _read(paths):
        _record(paths, _corrected(key), {"factor": 1.0})


def _corrected(key: str) -> str:
    return f"corrected-2/{key}"  # 2: predictions count answers at the lengths that were decoded


def _is_recent(measured_at: Any, max_age_s: float) -> bool:
    if isinstance(measured_at, bool) or not isinstance(measured_at, int | float):
        return False
    return -max_age_s <= time.time() - measured_at <= max_age_s  # a clock that was set back ages nothing for ever


def costs_key(fingerprint: str, dtype: str, *, device: str, threads: int) -> str:
    """Under which name the costs of a model's forward pass are kept."""
    return f"forward/{fingerprint[:16]}/{dtype}/{device.replace('/', '-')}/{threads}"


def block_seconds(paths: RootPaths, fingerprint: str, dtype: str, *, device: str, threads: int) -> float | None:
    """Seconds of one token through one block, measured on this kind of device with so many threads; None: never."""
    before, _, after = costs_key(fingerprint, dtype, device=device, threads=threads).rpartition("/")
    for key in _read(paths):
        if key.startswith(before) and key.endswith(f"/{after}"):  # a GPU's key goes on with its name
            found = recorded_costs(paths, key, frozenset({"block_token_s"}))
            if found is not None:
                return found["block_token_s"]
    return None


def read_seconds_per_byte(paths: RootPaths, *, again: bool = False) -> float:
    """How long a byte takes from the disk that the cache lies on; measured when the last measurement is older than `MAX_AGE_S`,
    with the system's own cache left out where it lets itself be."""
    names = frozenset({"read_s_per_byte"})
    found = None if again else recorded_costs(paths, _DISK, names, max_age_s=MAX_AGE_S)
    if found is None:
        found = record_costs(paths, _DISK, {"read_s_per_byte": _time_reading(paths.root)})
    return found["read_s_per_byte"]


def _time_reading(folder: Path) -> float:
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(os.urandom(2**20) * (READ_BYTES // 2**20))
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        started = time.perf_counter()
        while file.read(2**22):
            pass
        return max(time.perf_counter() - started, 1e-9) / READ_BYTES


def _key(fingerprint: str, dtype: str) -> str:
    return f"trace/{fingerprint[:16]}/{dtype}"


def _record(paths: RootPaths, key: str, value: Any) -> None:
    make_folder(paths.root)
    with hold_folder(paths.root):  # others add to the file, too
        write_file_atomically(paths.calibration, canonical_json(_read(paths) | {key: value}) + b"\n")


def _read(paths: RootPaths) -> dict[str, Any]:
    """What was measured; a file that cannot be read has told us nothing and is written anew."""
    try:
        speeds = json.loads(paths.calibration.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return speeds if isinstance(speeds, dict) else {}
