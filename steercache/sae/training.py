"""Training an SAE from cached rows: shuffled over the whole run, resumable, the result a folder that sae-lens loads."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import BudgetError, BusyError, SteercacheError, UsageError
from steercache.core.excerpts import reason_of
from steercache.core.ids import digest, digest_bytes
from steercache.core.locks import lock_file
from steercache.sae.row_order import ShuffledRows
from steercache.sae.tensors import as_float32
from steercache.sae.trainer import fold, load_trainer, make_trainer, save_trainer, train_step
from steercache.sae.training_rows import TrainingRows
from steercache.sae.training_settings import TrainingSettings
from steercache.store.durable import disk_errors, write_file_atomically

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
WORK: Final = "training"  # below the SAE's folder until it is finished: checkpoints, and what they belong to
Progress = Callable[[str, int, int], None]


def train_sae(
    rows: TrainingRows,
    settings: TrainingSettings,
    *,
    out: Path,
    metadata: Mapping[str, Any],
    device: str = "cpu",
    progress: Progress = lambda label, done, total: None,
) -> Path:
    """Train on `rows` into the folder `out`, which `load_sae` and sae-lens load; returns it.

    Killed at any time and called again with the same rows and settings, it goes on from its last checkpoint, and ends with the
    same bytes as without the kill. `metadata` goes into the SAE's configuration (model, hook, our provenance). Nothing is sent
    anywhere and nothing is written elsewhere.

    Raises:
        UsageError: the folder holds another SAE or another training, or there are too few rows.
        BusyError: another process trains into the folder. DamagedError: a checkpoint cannot be read.
        BudgetError: the disk is full; the checkpoint before is kept.
    """
    n_steps = settings.n_steps(len(rows.training))
    identity = digest(
        {"settings": settings.record(), "metadata": dict(metadata), "rows": digest_bytes(rows.training.tobytes())}
    )
    own = {**metadata.get("steercache", {}), "training_id": identity, "settings": settings.record()}
    metadata = {**metadata, "steercache": own}
    with _held(out, identity) as work:
        if work is None:
            return out
        trainer = make_trainer(
            settings, width=rows.width, n_steps=n_steps, mean_norm=rows.mean_norm, metadata=metadata, device=device
        )
        saved = _newest(work)
        if saved is not None:
            load_trainer(trainer, saved)
        _steps(trainer, rows, settings, n_steps=n_steps, work=work, progress=progress)
        _finish(fold(trainer), out, work)
    return out


def _steps(
    trainer: Any, rows: TrainingRows, settings: TrainingSettings, *, n_steps: int, work: Path, progress: Progress
) -> None:
    """All steps that are left, with a checkpoint every so often."""
    size = settings.batch_size
    stream = ShuffledRows(rows.training, seed=settings.seed, batch_size=size)
    first = trainer.n_training_steps
    saved_at = time.monotonic()
    for number, batch_nd in enumerate(stream.batches(rows.gather, first=first, stop=n_steps), start=first):
        progress("training", number * size, n_steps * size)
        train_step(trainer, as_float32(batch_nd))
        if time.monotonic() - saved_at >= settings.checkpoint_every_s:
            _checkpoint(trainer, work)
            saved_at = time.monotonic()
    progress("training", n_steps * size, n_steps * size)
    wrong = [name for name, tensor in trainer.sae.state_dict().items() if not tensor.isfinite().all()]
    if wrong:
        raise UsageError(
            f"training diverged: {', '.join(wrong)} are not finite", hint="a lower learning rate, or `normalize`"
        )


def _checkpoint(trainer: Any, work: Path) -> None:
    """Write the state beside the last one, and then take that away: a kill leaves one of them whole."""
    name = work / f"step-{trainer.n_training_steps:09d}"
    part = work / "part"
    shutil.rmtree(part, ignore_errors=True)
    with _written(part):
        part.mkdir()
        save_trainer(trainer, part)
        for file in part.iterdir():
            _sync(file)
    older = [folder for folder in work.glob("step-*") if folder != name]
    os.replace(part, name)
    _sync(work)
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _written(part: Path) -> Iterator[None]:
    """What torch and safetensors raise where a file cannot be written, as an error with a place; the half-written folder goes.

    Raises:
        BudgetError: the disk is full, or a limit is reached. UsageError: the folder may not be written.
    """
    from safetensors import SafetensorError

    try:
        with disk_errors(part):
            yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise BudgetError(
            f"cannot be written: {reason_of(error)}; the checkpoint before it is kept",
            place=str(part),
            hint="free some space, and train again: it goes on from there",
        ) from error
    except SteercacheError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _newest(work: Path) -> Path | None:
    return max(work.glob("step-*"), default=None)


def _finish(sae: Any, out: Path, work: Path) -> None:
    """Put the trained SAE in place, its configuration last: a folder with one is a whole SAE."""
    part = work / "part"
    shutil.rmtree(part, ignore_errors=True)
    with _written(part):
        weights, config = sae.save_inference_model(part)
        for file in (Path(weights), Path(config)):
            file.chmod(0o644)  # safetensors writes files for their owner alone
            _sync(file)
    os.replace(weights, out / WEIGHTS)
    os.replace(config, out / CONFIG)
    _sync(out)
    shutil.rmtree(work)


@contextmanager
def _held(out: Path, identity: str) -> Iterator[Path | None]:
    """The folder's place for checkpoints, locked; None where this very training was finished before."""
    work = out / WORK
    if _finished_as(out) == identity:
        shutil.rmtree(work, ignore_errors=True)
        yield None
        return
    if (out / CONFIG).exists() or (out.is_dir() and any(out.iterdir()) and not work.is_dir()):
        raise UsageError(
            "this folder holds something else", place=str(out), hint="name a new folder, or remove what is there"
        )
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_file(work / "LOCK")
    except BlockingIOError as error:
        raise BusyError("another process trains into this folder", place=str(out), hint="wait for it") from error
    try:
        _belongs(work, identity)
        yield work
    finally:
        os.close(lock)


def _finished_as(out: Path) -> str | None:
    """The training that the SAE in a folder came from; None where there is none, or it is another tool's."""
    try:
        found = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        identity = found["metadata"]["steercache"]["training_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return identity if isinstance(identity, str) else None


def _belongs(work: Path, identity: str) -> None:
    """Note what the checkpoints are of; refuse those of another training."""
    path = work / "identity"
    if path.exists() and path.read_bytes() != identity.encode():
        raise UsageError(
            "this folder holds the checkpoints of a training with other rows or settings",
            place=str(work.parent),
            hint="give the settings it was begun with, name a new folder, or remove this one",
        )
    write_file_atomically(path, identity.encode())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
