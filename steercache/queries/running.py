"""One statement on a connection to the cache's index: its functions, and the values of its parameters."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from steercache.cache.handle import CacheFolder
from steercache.core.ids import resolve_name
from steercache.index.features import names_features
from steercache.index.functions import register_functions
from steercache.index.guard import parameters_of
from steercache.queries.bindings import Lookup, RunSql, bind, newest_run
from steercache.queries.encoded import CachedFeatures
from steercache.queries.library import Query
from steercache.queries.values import CachedValues


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningQuery:
    """A statement with its values, on a connection that knows `activation()` and `vector()`."""

    con: Any
    text: str
    bindings: dict[str, Any]
    failures: list[Any]


@contextmanager
def running(
    cache: CacheFolder,
    query: Query | None,
    text: str,
    given: Mapping[str, Any],
    *,
    choose_run: bool = False,
    on_open: Callable[[], None] | None = None,
) -> Iterator[RunningQuery]:
    """The statement `text` ready to be run, with values for its parameters from `given`.

    `choose_run` gives SQL without a header the newest run for its `$run`. `on_open` is called once the index is open, before
    anything of the statement is looked at.
    """
    with cache.connection() as con:
        if on_open is not None:
            on_open()
        values = CachedValues(cache)
        failures = register_functions(con, activation=values.activation, vector=values.vector)
        ask, features = asking(con), CachedFeatures(cache)
        if names_features(text):
            features.register(con)
        if query is not None:
            bindings = bind(
                query,
                given,
                ask=ask,
                find_run=cache.resolve_run,
                find_vector=_finder(ask),
                find_encoding=features.choose,
            )
        elif choose_run:
            bindings = _with_run(cache, con, text, given)
        else:
            bindings = dict(given)
        yield RunningQuery(con=con, text=text, bindings=bindings, failures=failures)


def asking(con: Any) -> RunSql:
    """SQL of ours, asked of one connection."""

    def ask(sql: str, wanted: list[Any]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = con.execute(sql, wanted).fetchall()
        return found

    return ask


def _with_run(cache: CacheFolder, con: Any, text: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Bindings of a selection written inline: its `$run`, if it has one, is looked up or chosen as a named query's is."""
    bindings = dict(given)
    if bindings.get("run") is not None:
        bindings["run"] = cache.resolve_run(bindings["run"])
    elif "run" in parameters_of(con, text):
        bindings["run"] = newest_run(asking(con), modality="text", concept=bindings.get("concept"))
    return bindings


def _finder(ask: RunSql) -> Lookup:
    def find_vector(wanted: str) -> str:
        known = ask("SELECT vector_id, min(name) FROM vectors GROUP BY vector_id ORDER BY max(created_at) DESC, 1", [])
        return resolve_name(wanted, known, noun="vector", list_command="steercache vectors list")

    return find_vector
