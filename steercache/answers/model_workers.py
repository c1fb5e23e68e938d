"""Processes that each hold a model and a cache, and do what tasks say with both: answers, gradients.

Tasks are small: questions, cells, vectors. Tokenizers and rows of runs are named in them, and each worker has its own.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import torch

from steercache.cache.handle import CacheFolder
from steercache.cache.source import RunSource
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.numerics import numeric_differences
from steercache.engines.crew import Crew, EngineOptions, crew_of
from steercache.models.memory import freed_memory_kept
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.trace.numerics import numerics_of

R_co = TypeVar("R_co", covariant=True)
Load = Callable[[], LoadedModel]
"""Loads a model in another process; picklable."""


class ModelTask(Protocol[R_co]):
    """What is to be done with a worker's model; picklable, as is what comes back."""

    def on(self, host: "ModelWorker") -> R_co:
        """Do it."""
        ...


@contextmanager
def model_crew(
    loaded: LoadedModel,
    load: Load | None,
    root: Path,
    engine: EngineOptions,
    *,
    mixed_numerics: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[Crew[Any, Any] | None]:
    """Workers with the model `loaded`, which each loads by `load`; None where the caller is to compute itself.

    With `mixed_numerics` a worker that computes other last bits than this process takes part, and what it computes says so.

    Raises:
        UsageError: a model that cannot be loaded elsewhere. As `engines.crew.do_work` otherwise, from the crew.
    """
    if not engine.elsewhere:
        yield None
        return
    if load is None:
        raise UsageError(
            "each worker loads the model itself, and this one is an object in memory",
            hint="name the model, its manifest or its folder; or compute in this process",
        )
    start = partial(
        ModelWorker,
        load,
        root.absolute(),
        _weights(loaded),
        numerics=numerics_of(loaded),
        mixed_numerics=mixed_numerics,
    )

    def learn(about: Mapping[str, Any]) -> None:
        if about:
            on_note(f"a worker computes under other numerics: {'; '.join(about['differences'])}")

    with crew_of(f"work with {loaded.spec.name}", start, engine, on_worker=learn, on_note=on_note) as crew:
        yield crew


class ModelWorker:
    """A worker's model and cache. `other_numerics` are its numerics, where they are not the caller's.

    Raises:
        UsageError: it would compute other bits than the caller, or has other weights. NotFoundError: it does not see the cache.
    """

    def __init__(
        self,
        load: Load,
        root: Path,
        weights: Mapping[str, str],
        *,
        numerics: Mapping[str, Any],
        mixed_numerics: bool = False,
    ) -> None:
        if not root.is_dir():
            raise NotFoundError(
                "this node does not see the cache",
                place=str(root),
                hint="put the cache on a file system that all nodes share, under the same path",
            )
        torch.set_num_threads(int(numerics["threads"]))  # the number moves bits
        self.loaded, self.cache = load(), CacheFolder(root)
        if (found := _weights(self.loaded)) != weights:
            raise UsageError(
                f"this process loads another model than the caller's: {found}, not {dict(weights)}",
                place=self.loaded.spec.name,
                hint="give all workers the same files of the model, and the same dtype",
            )
        own = numerics_of(self.loaded)
        self._differences = numeric_differences(numerics, own)
        self.other_numerics = own if self._differences else None
        if self._differences and not mixed_numerics:
            raise UsageError(
                f"this process computes under other numerics than the caller: {'; '.join(self._differences)}",
                place=self.loaded.spec.name,
                hint="give all workers the same kind of machine, environment variables and library versions",
            )

    @property
    def about(self) -> Mapping[str, Any]:
        """In what its numerics differ from the caller's, where they do."""
        return {"differences": self._differences} if self._differences else {}

    def run(self, task: ModelTask[Any]) -> Any:
        """Do a task."""
        with freed_memory_kept():
            return task.on(self)

    def unpacked(self, packed: bytes) -> Any:
        """What `packed` packed, with this worker's tokenizer and rows in the places of the caller's."""
        return _Unpickler(io.BytesIO(packed), self.loaded.bundle, self.cache).load()

    @lru_cache(maxsize=2)  # noqa: B019  a worker lives as long as its process
    def unpacked_once(self, packed: bytes) -> Any:
        """The same, kept for the next tasks that bring these bytes."""
        return self.unpacked(packed)


def packed(what: Any) -> bytes:
    """Something as bytes for `ModelWorker.unpacked`. Raises UsageError for what cannot be sent to other processes."""
    file = io.BytesIO()
    try:
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(what)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"these questions or vectors cannot be sent to workers: {error}", hint="compute in one process"
        ) from error
    return file.getvalue()


def _weights(loaded: LoadedModel) -> dict[str, str]:
    spec = loaded.spec
    return {"weights": spec.fingerprint, "tokenizer": spec.tokenizer_digest, "dtype": spec.dtype}


class _Pickler(pickle.Pickler):
    """Leaves out what each worker has itself: tokenizers, and the rows of runs."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, TokenizerBundle):
            return ("bundle", None)
        return ("rows", obj.run_id) if isinstance(obj, RunSource) else None

    def reducer_override(self, obj: Any) -> Any:
        return (_read_only, (dict(obj),)) if isinstance(obj, MappingProxyType) else NotImplemented


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """A mapping of this kind, whose class has no name that pickle finds."""
    return MappingProxyType(values)


class _Unpickler(pickle.Unpickler):
    """Puts the worker's own in; what it reads came from the caller's process, never from a file."""

    def __init__(self, file: io.BytesIO, bundle: TokenizerBundle, cache: CacheFolder) -> None:
        super().__init__(file)
        self._bundle, self._cache = bundle, cache

    def persistent_load(self, pid: Any) -> Any:
        kind, run_id = pid
        return self._bundle if kind == "bundle" else self._cache.source(run_id)
