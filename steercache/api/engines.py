"""Where work is done: in this process, in others of this machine, or on a Ray cluster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from steercache.answers.model_workers import model_crew
from steercache.cells.model import FoundModel, find_model
from steercache.engines.crew import ONE_HERE, Crew
from steercache.engines.crew import EngineName as EngineName
from steercache.engines.crew import EngineOptions as EngineOptions
from steercache.models.spec import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The engine of a job. `mixed_numerics` takes workers that compute other last bits than this process; what was computed by
    such says so. `on_note` hears remarks for people."""

    engine: EngineOptions = ONE_HERE
    mixed_numerics: bool = False
    on_note: Callable[[str], None] = field(default=lambda note: None, repr=False)


HERE = Where()


class Asked(Protocol):
    """What a command's engine options are called."""

    @property
    def engine(self) -> EngineName: ...

    @property
    def workers(self) -> int: ...

    @property
    def address(self) -> str | None: ...

    @property
    def cpus_per_worker(self) -> float: ...

    @property
    def gpus_per_worker(self) -> float: ...

    @property
    def mixed_numerics(self) -> bool: ...


def where_of(asked: Asked, *, on_note: Callable[[str], None]) -> Where:
    """The engine that a command's options name. Raises UsageError for settings that contradict each other."""
    engine = EngineOptions(
        name=asked.engine,
        workers=asked.workers,
        address=asked.address,
        cpus_per_worker=asked.cpus_per_worker,
        gpus_per_worker=asked.gpus_per_worker,
    )
    return Where(engine=engine, mixed_numerics=asked.mixed_numerics, on_note=on_note)


@contextmanager
def workers_for(
    loaded: LoadedModel, model: object, root: Path, where: Where, *, device: str, dtype: str
) -> Iterator[Crew[Any, Any] | None]:
    """Workers for answers of a model that was `loaded` from `model`, a name, a path or a `FoundModel`; None: this process.

    Raises:
        UsageError: `model` is an object in memory, which other processes cannot load.
    """
    load = None
    if where.engine.elsewhere and not isinstance(model, LoadedModel):
        found = model if isinstance(model, FoundModel) else find_model(str(model), root)
        load = partial(found.load, root.absolute(), device=device, dtype=dtype)
    with model_crew(
        loaded, load, root, where.engine, mixed_numerics=where.mixed_numerics, on_note=where.on_note
    ) as crew:
        yield crew
