"""`steercache query`: a named query, SQL or a file over the cache, as a table or in a format for programs."""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast, get_args

import click

from steercache.cli.completion import complete_queries
from steercache.cli.options import LocalPath, json_option, parse_bindings, root_option, takes
from steercache.cli.output import note, print_json, print_table
from steercache.cli.watchdog import begin_query
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.queries.library import Query

TABLE_ROWS = 20  # a table at the terminal shows so many, unless --limit asks for others
SPOOL_BYTES = 64 * 2**20  # what goes to stdout waits in memory up to here, then on disk: a slow pager holds no index
FormatName = Literal["csv", "json", "jsonl", "parquet", "arrow"]
_BINARY = ("parquet", "arrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions:
    """Options of `steercache query`."""

    name_or_sql: str | None
    sql_file: Path | None
    params: tuple[str, ...]
    format_name: Literal["table", "csv", "json", "jsonl", "parquet", "arrow"]
    output: Path | None
    limit: int | None
    time_limit: float
    memory_limit: int
    list_them: bool
    show: str | None
    root: Path
    as_json: bool


@click.command()
@click.argument("name_or_sql", required=False, metavar="[NAME|SQL]", shell_complete=complete_queries)
@click.option(
    "-f", "--file", "sql_file", type=LocalPath(path_type=Path, dir_okay=False), help="Read the query from a file."
)
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a parameter of the query; repeatable.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["table", *get_args(FormatName)]),
    default="table",
    show_default=True,
    help="Format of the result.",
)
@click.option(
    "-o", "--output", type=LocalPath(path_type=Path, dir_okay=False), help="Write to a file instead of stdout."
)
@click.option(
    "--limit", type=click.IntRange(min=0), help=f"Number of rows to show.  [default: {TABLE_ROWS} in a table]"
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.1),
    default=300.0,
    show_default=True,
    help="Longest time of the query, in seconds.",
)
@click.option(
    "--memory-limit",
    type=click.IntRange(min=64),
    default=4096,
    show_default=True,
    help="Largest memory of the query, in MiB.",
)
@click.option("--list", "list_them", is_flag=True, help="List the named queries.")
@click.option("--show", metavar="NAME", shell_complete=complete_queries, help="Print a named query with its header.")
@root_option
@json_option
@takes(QueryOptions)
def query(asked: QueryOptions) -> None:
    """Run a named query, SQL or a file over the cache.

    \b
    steercache query --list
    steercache query concept_counts
    steercache query anchor_tokens -p concept=counting
    steercache query "SELECT kind, count(*) FROM tokens GROUP BY kind"
    steercache query token_frequency -p top=1000 --format parquet -o tokens.parquet
    """
    if asked.list_them:
        _list(as_json=asked.as_json)
    elif asked.show:
        from steercache.api.querying import named_query

        click.echo(named_query(asked.show).text, nl=False)
    else:
        _run(asked)


def _list(*, as_json: bool) -> None:
    from steercache.api.querying import named_queries

    library = named_queries()
    if as_json:
        print_json([q.model_dump(exclude={"text", "path"}, exclude_unset=True) for q in library.values()])
        return
    for kind in ("selection", "table", "check"):
        rows = [(q.name, _params(q), q.summary) for q in library.values() if q.kind == kind]
        print_table([kind, "parameters", "what it does"], rows)
        click.echo()


def _params(query: "Query") -> str:
    return ", ".join(name if p.required else f"[{name}]" for name, p in query.params.items())


def _run(asked: QueryOptions) -> None:
    from steercache.api.cache import open_cache_at
    from steercache.api.querying import Limits, read_sql

    if (asked.name_or_sql is None) == (asked.sql_file is None):
        raise UsageError("give a query's name, SQL, or -f FILE", hint="steercache query --list")
    text = asked.name_or_sql if asked.sql_file is None else read_sql(asked.sql_file)
    assert text is not None
    limits = Limits(memory_mib=asked.memory_limit, time_s=asked.time_limit)
    cache = open_cache_at(asked.root, limits=limits)
    found = cache.find_query(text)
    bindings = parse_bindings(asked.params, typed=found is not None)
    format_name = "json" if asked.as_json else asked.format_name
    with cache.folder.connection():
        pass  # brings the index up to date, which is our work and not the query's
    begin_query(limits)
    if format_name != "table":
        _write(cache, text, bindings, format_name=format_name, asked=asked)
    elif asked.output is not None:
        raise UsageError("a table is for the terminal", hint="--format csv -o FILE")
    else:
        _print_rows(cache, text, bindings, limit=asked.limit)
    if found is not None and found.kind == "check":
        note(f"{found.name}: what it returns is wrong; no rows is good")


def _print_rows(cache: "Cache", text: str, bindings: dict[str, Any], *, limit: int | None) -> None:
    shown = TABLE_ROWS if limit is None else limit
    table = cache.head(text, shown + 1, bindings=bindings)
    names = table.schema.names
    rows = [[_cell(row[name]) for name in names] for row in table.slice(0, shown).to_pylist()]
    print_table(names, rows)
    if len(table) > shown:
        note(f"the first {shown} rows; --limit N shows more, --format csv writes all")
    elif not rows:
        note("no rows")


def _cell(value: Any) -> Any:
    """A value for a table; ids are cut to the digits that are enough to name them."""
    from steercache.api.querying import plain

    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:SHORT_ID]
    return value if isinstance(value, float) else plain(value)


def _write(
    cache: "Cache", text: str, bindings: dict[str, Any], *, format_name: FormatName, asked: QueryOptions
) -> None:
    if asked.output is not None:
        n_rows = cache.write(text, asked.output, format=format_name, limit=asked.limit, bindings=bindings)
        note(f"{n_rows:,} rows in {asked.output}")
        return
    sink = getattr(sys.stdout, "buffer", None)  # None: a stream of text stands in the place of stdout
    if format_name in _BINARY and (sink is None or sys.stdout.isatty()):
        raise UsageError(f"{format_name} is not text: it needs a file", hint="-o FILE")
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        cache.write(text, cast(BinaryIO, spool), format=format_name, limit=asked.limit, bindings=bindings)
        spool.seek(0)
        if sink is None:
            shutil.copyfileobj(TextIOWrapper(cast(BinaryIO, spool), "utf-8"), sys.stdout)
            return
        shutil.copyfileobj(spool, sink)
        sink.flush()
