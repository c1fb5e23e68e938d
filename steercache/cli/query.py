"""`steercache query`: a named query, SQL or a file over the cache, as a table or in a format for programs."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, cast, get_args

import click
import pyarrow as pa

from steercache.cli.options import json_option, root_option
from steercache.cli.output import note, print_json, print_table
from steercache.cli.watchdog import begin_query
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.index.guard import Limits
from steercache.queries.bindings import guessed
from steercache.queries.formats import WRITERS, FormatName, first_rows, plain
from steercache.queries.library import Query, find_query, load_library, read_sql
from steercache.queries.session import Session, open_session

TABLE_ROWS = 20  # a table at the terminal shows so many, unless --limit asks for others
SPOOL_BYTES = 64 * 2**20  # what goes to stdout waits in memory up to here, then on disk: a slow pager holds no index
_BINARY = ("parquet", "arrow")


@click.command()
@click.argument("name_or_sql", required=False, metavar="[NAME|SQL]")
@click.option(
    "-f", "--file", "sql_file", type=click.Path(path_type=Path, dir_okay=False), help="Take the query from a file."
)
@click.option(
    "-p", "--param", "params", multiple=True, metavar="KEY=VALUE", help="A value for a parameter; repeatable."
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["table", *get_args(FormatName)]),
    default="table",
    show_default=True,
    help="How to write the result.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write into a file instead of stdout."
)
@click.option("--limit", type=click.IntRange(min=0), help=f"First so many rows.  [default: {TABLE_ROWS} in a table]")
@click.option("--time-limit", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds.")
@click.option("--memory-limit", type=click.IntRange(min=64), default=4096, show_default=True, help="MiB.")
@click.option("--list", "list_them", is_flag=True, help="List the named queries.")
@click.option("--show", metavar="NAME", help="Print a named query with its header.")
@root_option
@json_option
def query(name_or_sql: str | None, **options: Any) -> None:
    """Run a named query, SQL or a file over the cache.

    \b
    steercache query --list
    steercache query concept_counts
    steercache query anchor_tokens -p concept=counting
    steercache query "SELECT kind, count(*) FROM tokens GROUP BY kind"
    steercache query token_frequency -p top=1000 --format parquet -o tokens.parquet
    """
    if options["list_them"]:
        _list(as_json=options["as_json"])
    elif options["show"]:
        click.echo(find_query(load_library(), options["show"]).text, nl=False)
    else:
        _run(name_or_sql, options)


def _list(*, as_json: bool) -> None:
    library = load_library()
    if as_json:
        print_json([q.model_dump(exclude={"text", "path"}, exclude_unset=True) for q in library.values()])
        return
    for kind in ("selection", "table", "check"):
        rows = [(q.name, _params(q), q.summary) for q in library.values() if q.kind == kind]
        print_table([kind, "parameters", "what it does"], rows)
        click.echo()


def _params(query: Query) -> str:
    return ", ".join(name if p.required else f"[{name}]" for name, p in query.params.items())


def _run(name_or_sql: str | None, options: dict[str, Any]) -> None:
    if (name_or_sql is None) == (options["sql_file"] is None):
        raise UsageError("give a query's name, SQL, or -f FILE", hint="steercache query --list")
    text = name_or_sql if name_or_sql is not None else read_sql(options["sql_file"])
    limits = Limits(memory_mib=options["memory_limit"], time_s=options["time_limit"])
    session = open_session(options["root"], limits=limits)
    found, _ = session.read(text)
    bindings = _bindings(options["params"], typed=found is not None)
    format_name = "json" if options["as_json"] else str(options["format_name"])
    with session.cache.connection():
        pass  # brings the index up to date, which is our work and not the query's
    begin_query(limits)
    if format_name == "table" and options["output"] is None:
        _print_rows(session, text, bindings, limit=options["limit"])
    elif format_name == "table":
        raise UsageError("a table is for the terminal", hint="--format csv -o FILE")
    else:
        _write(session, text, bindings, format_name=cast(FormatName, format_name), options=options)
    if found is not None and found.kind == "check":
        note(f"{found.name}: what it returns is wrong; no rows is good")


def _bindings(params: tuple[str, ...], *, typed: bool) -> dict[str, Any]:
    """KEY=VALUE pairs; a query with a header says their types, plain SQL leaves them to be guessed."""
    bindings: dict[str, Any] = {}
    for pair in params:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"-p {pair!r} is not KEY=VALUE", hint="-p concept=counting")
        if name in bindings:
            raise UsageError(f"-p {name} is given twice")
        bindings[name] = value if typed else guessed(value)
    return bindings


def _print_rows(session: Session, text: str, bindings: dict[str, Any], *, limit: int | None) -> None:
    shown = TABLE_ROWS if limit is None else limit
    with session.stream(text, bindings) as reader:
        names = reader.schema.names
        table = pa.Table.from_batches(list(first_rows(reader, shown + 1)), schema=reader.schema)
    rows = [[_cell(row[name]) for name in names] for row in table.slice(0, shown).to_pylist()]
    print_table(names, rows)
    if len(table) > shown:
        note(f"the first {shown} rows; --limit N shows more, --format csv writes all")
    elif not rows:
        note("no rows")


def _cell(value: Any) -> Any:
    """Ids are cut to the digits that answer to them."""
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:SHORT_ID]
    return value if isinstance(value, float) else plain(value)


def _write(
    session: Session, text: str, bindings: dict[str, Any], *, format_name: FormatName, options: dict[str, Any]
) -> None:
    def into(sink: BinaryIO) -> int:
        with session.stream(text, bindings) as reader:
            return WRITERS[format_name](first_rows(reader, options["limit"]), sink)

    if options["output"] is not None:
        n_rows = _to_file(into, options["output"])
        note(f"{n_rows:,} rows in {options['output']}")
        return
    sink = getattr(sys.stdout, "buffer", None)  # None: a stream of text stands in the place of stdout
    if format_name in _BINARY and (sink is None or sys.stdout.isatty()):
        raise UsageError(f"{format_name} is not text: it needs a file", hint="-o FILE")
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        into(cast(BinaryIO, spool))
        spool.seek(0)
        if sink is None:
            shutil.copyfileobj(TextIOWrapper(cast(BinaryIO, spool), "utf-8"), sys.stdout)
            return
        shutil.copyfileobj(spool, sink)
        sink.flush()


def _to_file(into: Callable[[BinaryIO], int], path: Path) -> int:
    """Write beside `path` and take its name at the end; a query that fails leaves what was there."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as sink:
            n_rows = into(sink)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", place=str(path), hint="-o FILE elsewhere") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return n_rows
