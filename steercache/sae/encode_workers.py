"""A run's shards as features, computed by other processes: they write the files of features, the caller commits the records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from steercache.cache.feature_files import FeatureShard
from steercache.cache.source import ShardRecords
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.numerics import PROBE, require_same_numerics
from steercache.engines.crew import ONE_HERE, EngineOptions, Work, do_work
from steercache.sae.encode_shard import EncodedLayer, encode_shard
from steercache.sae.loaded import LoadedSae
from steercache.sae.sparse import SparseEncoder
from steercache.trace.numerics import ALWAYS
from steercache.trace.probe import probe_kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingEngine:
    """Where shards are encoded: `load` loads the SAE in another process, and is picklable (None: it cannot be loaded there)."""

    options: EngineOptions = ONE_HERE
    load: Callable[[], LoadedSae] | None = None
    on_note: Callable[[str], None] = lambda note: None


HERE: Final = EncodingEngine()


@dataclass(frozen=True, slots=True)
class _Start:
    load: Callable[[], LoadedSae]
    sae_id: str
    layer: EncodedLayer
    numerics: Mapping[str, Any]

    def __call__(self) -> "EncodingWorker":
        return EncodingWorker(self)


class EncodingWorker:
    """A worker's SAE.

    Raises:
        UsageError: it would compute other bits than the caller, or loads another SAE. NotFoundError: it does not see the run.
    """

    about: Mapping[str, Any] = {}

    def __init__(self, start: _Start) -> None:
        if not start.layer.paths.document.is_file():
            raise NotFoundError(
                "this node does not see the encoding that it is to write",
                place=str(start.layer.paths.folder),
                hint="put the cache on a file system that all nodes share, under the same path",
            )
        torch.set_num_threads(int(start.numerics["threads"]))  # the number moves bits
        sae = start.load()
        if sae.spec.sae_id != start.sae_id:
            raise UsageError(
                "this process loads another SAE than the caller's",
                place=sae.spec.name,
                hint="give all workers the same files of the SAE",
            )
        require_same_numerics(start.numerics, sae_numerics(sae), place=sae.spec.name)
        self._layer, self._encoder = start.layer, SparseEncoder(sae)
        self._records = ShardRecords(start.layer.run, start.layer.generation)

    def run(self, shard_idx: int) -> FeatureShard:
        """Write the features of one shard; the record that commits them is the caller's to write."""
        return encode_shard(self._layer, self._encoder, self._records[shard_idx])


def encode_elsewhere(
    sae: LoadedSae,
    layer: EncodedLayer,
    pending: Sequence[int],
    engine: EncodingEngine,
    commit: Callable[[FeatureShard], None],
) -> None:
    """Encode shards in other processes; `commit` is given the record of each.

    Raises:
        UsageError: the SAE is an object in memory. As `engines.crew.do_work` otherwise.
    """
    if engine.load is None:
        raise UsageError(
            "each worker loads the SAE itself, and this one is an object in memory",
            place=sae.spec.name,
            hint="name its manifest or its folder; or encode in this process",
        )
    work = Work(
        name=f"the encoding with {sae.spec.name!r}",
        tasks=pending,
        start=_Start(engine.load, sae.spec.sae_id, layer, sae_numerics(sae)),
        on_done=lambda shard_idx, record: commit(record),
        on_note=engine.on_note,
    )
    do_work(work, engine.options)


def sae_numerics(sae: LoadedSae) -> dict[str, Any]:
    """What moves the last bits of features, as `trace.numerics` has it of a model."""
    device, n_threads = torch.device(sae.module.device), torch.get_num_threads()
    return {
        "device": device.type,
        "threads": n_threads,
        "torch": torch.__version__,
        PROBE: probe_kernels(ALWAYS, device, n_threads=n_threads),
    }
