"""Make the index again from the files: what `rebuild` restores is everything the index ever held."""

from collections.abc import Callable
from contextlib import suppress

from steercache.cache.catch_up import CATCH_UP_WAIT_S, catch_up, labels_path
from steercache.cache.changing import read_while_files_change
from steercache.cache.entries import all_sweep_files, newest_of_each
from steercache.cache.handle import CacheFolder
from steercache.cache.states import FileStates, labels_state, vector_states
from steercache.cache.vector_files import read_vector, vector_rows
from steercache.core.errors import BusyError, DamagedError, NotFoundError
from steercache.index.files import rebuild
from steercache.index.io_errors import UnreadableIndexError
from steercache.index.seen import SourceState


def rebuild_index(cache: CacheFolder, *, on_shards: Callable[[int], None] = lambda n_new: None) -> int:
    """Write a new index beside the old one and put it in its place by a rename; killed anywhere, one of the two is there.

    `on_shards` hears of every few shards that came in. Returns the number of all.

    Raises:
        BusyError: another process has the index open.
        DamagedError: a file that the index is made from is missing or not readable; the message names it.
    """
    return read_while_files_change(cache.paths, lambda states: _rebuild(cache, states, on_shards))


def _rebuild(cache: CacheFolder, files: FileStates, on_shards: Callable[[int], None]) -> int:
    paths = cache.paths
    states = vector_states(paths)
    stored = {path: read_vector(paths.root / path) for path in sorted(states)}
    runs, vectors = (
        list(cache.run_files()),
        [row for one in newest_of_each(stored.values()) for row in vector_rows(one)],
    )
    sources = {path: SourceState(states[path], one.vector.vector_id) for path, one in stored.items()}
    sources |= {labels_path(r.run["run_id"]): SourceState(labels_state(r.annotations), r.run["run_id"]) for r in runs}
    sweeps = all_sweep_files(paths)
    return rebuild(paths.index, runs, vectors, sweeps, seen=files.settled, sources=sources, on_shards=on_shards)


def tell_index(cache: CacheFolder) -> None:
    """Bring the index up to date after something was saved, if it is free: for those who read the index without us.

    The files are the truth: what the index lacks is added, or reported as damaged, by the next reader.
    """
    with suppress(DamagedError, NotFoundError):
        catch_up_or_rebuild(cache, settle=False)


def catch_up_or_rebuild(cache: CacheFolder, *, wait_s: float = CATCH_UP_WAIT_S, settle: bool = True) -> str | None:
    """`catch_up`; an unreadable index is rebuilt automatically.

    Returns the message that says who holds the index, or None. Raises DamagedError as `rebuild_index`.
    """
    try:
        return catch_up(cache.paths, wait_s=wait_s, settle=settle)
    except UnreadableIndexError:
        try:
            rebuild_index(cache)
        except BusyError as error:
            return error.message
    return None
