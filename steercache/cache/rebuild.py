"""Make the index again from the files: what `rebuild` restores is everything the index ever held."""

from collections.abc import Callable

from steercache.cache.catch_up import CATCH_UP_WAIT_S, catch_up, files_seen
from steercache.cache.entries import all_sweep_files, all_vector_rows
from steercache.cache.handle import Cache
from steercache.core.errors import BusyError
from steercache.index.database import UnreadableIndexError
from steercache.index.files import rebuild


def rebuild_index(cache: Cache, *, on_shards: Callable[[int], None] = lambda n_new: None) -> int:
    """Write a new index beside the old one and put it in its place by a rename; killed anywhere, one of the two is there.

    `on_shards` hears of every few shards that came in. Returns the number of all.

    Raises:
        BusyError: another process has the index open.
        DamagedError: a file that the index is made from is missing or not readable; the message names it.
    """
    seen = files_seen(cache.paths)  # before the work: what changes meanwhile differs next time
    vectors, sweeps = all_vector_rows(cache.paths), all_sweep_files(cache.paths)
    return rebuild(cache.paths.index, cache.run_files(), vectors, sweeps, seen=seen, on_shards=on_shards)


def catch_up_or_rebuild(cache: Cache, *, wait_s: float = CATCH_UP_WAIT_S) -> str | None:
    """`catch_up`; an index that DuckDB cannot read is made again, so that a build goes on after a kill without a word from us.

    Returns the message that says who holds the index, or None. Raises DamagedError as `rebuild_index`.
    """
    try:
        return catch_up(cache.paths, wait_s=wait_s)
    except UnreadableIndexError:
        try:
            rebuild_index(cache)
        except BusyError as error:
            return error.message
    return None
