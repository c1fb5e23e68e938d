"""`steercache serve`: the explorer, a read-only web server on this machine."""

from pathlib import Path

import click

from steercache.cli.options import json_option, root_option
from steercache.cli.output import note, print_json

DEFAULT_PORT = 8765


@click.command("serve")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option("--no-browser", is_flag=True, help="Do not open the browser; the address is printed in any case.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Longest time of a statement of the SQL page, in seconds.",
)
@root_option
@json_option
def serve_command(port: int, no_browser: bool, time_limit: float, root: Path, as_json: bool) -> None:
    """Look at a cache in the browser: runs, samples, tokens along a vector, results, SQL. Nothing is written.

    The server listens on this machine only, and the address that is printed holds a key without which it answers nothing.
    Ctrl-C ends it. From another machine: `ssh -L 8765:127.0.0.1:8765 HOST`, then open the address here.

    \b
    steercache serve
    steercache serve --port 9000 --no-browser
    """
    from steercache.explorer import serve

    def started(address: str) -> None:
        if as_json:
            print_json({"address": address})
        else:
            click.echo(address)
            note("Ctrl-C ends it")

    serve(root, port=port, open_browser=not no_browser, sql_time_s=time_limit, on_start=started)
