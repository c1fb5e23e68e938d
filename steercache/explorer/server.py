"""Starting and ending the explorer's server."""

import asyncio
import contextlib
import secrets
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Final

from steercache.api.cache import Cache, open_cache_at
from steercache.core.errors import BusyError, MissingExtraError, UsageError

ADDRESS: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765
_PATIENCE_S: Final = 2  # for requests under way when the server is ended
_INSTALL: Final = "pip install 'steercache[serve]'"


def serve(
    cache: Cache | str | PathLike[str] | None = None,
    *,
    port: int = DEFAULT_PORT,
    open_browser: bool = True,
    sql_time_s: float = 10.0,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Show a cache in the browser until interrupted (Ctrl-C, or the stop button of a notebook); nothing is ever written to it.

    The server listens on 127.0.0.1 only. `cache` is a cache or its folder (None: `STEERCACHE_ROOT`, or the folder `cache`);
    `port` 0 takes a free one. `on_start` is called with the address (by default it is printed), which holds a key without
    which no page is answered. A statement of the SQL page takes at most `sql_time_s` seconds.

    Raises:
        NotFoundError: there is no cache. BusyError: the port is in use. UsageError: the port cannot be used.
        MissingExtraError: starlette, uvicorn or jinja2 is not installed.
    """
    opened = cache if isinstance(cache, Cache) else open_cache_at(cache)
    server_of = _web_stack()
    token = secrets.token_urlsafe(24)
    listening = _listen(port)
    try:
        address = f"http://{ADDRESS}:{listening.getsockname()[1]}/{token}/"
        server = server_of(opened, token, sql_time_s)
        (on_start or _print)(address)
        with (
            tempfile.TemporaryDirectory(prefix="steercache-explorer-") as private,
            contextlib.suppress(KeyboardInterrupt),
        ):
            if open_browser:
                threading.Thread(target=_open, args=(address, Path(private)), daemon=True).start()
            _run(server, listening)  # uvicorn ends well at an interrupt, and then raises it again
    finally:
        listening.close()


def _run(server: Any, listening: socket.socket) -> None:
    """Serve until interrupted; in a thread where this one has an event loop already, as that of a notebook has."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        server.run(sockets=[listening])
        return
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    finally:
        server.should_exit = True
        thread.join(2.0 * _PATIENCE_S)


def _web_stack() -> Callable[[Cache, str, float], Any]:
    """What makes the server. Raises MissingExtraError."""
    try:
        import uvicorn

        from steercache.explorer.app import create_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "jinja2", "markupsafe", "anyio"):
            raise
        raise MissingExtraError(f"the explorer needs {error.name}, which is not installed", hint=_INSTALL) from error

    def made(cache: Cache, token: str, sql_time_s: float) -> Any:
        config = uvicorn.Config(
            create_app(cache, token=token, sql_time_s=sql_time_s),
            log_config=None,
            log_level="critical",  # what goes wrong is named by `app`
            access_log=False,  # its lines would hold the key
            server_header=False,
            date_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_PATIENCE_S,
            timeout_keep_alive=30,
            limit_concurrency=64,
            h11_max_incomplete_event_size=65_536,
        )
        return uvicorn.Server(config)

    return made


def _listen(port: int) -> socket.socket:
    """A listening socket on loopback. Raises BusyError, UsageError."""
    if not 0 <= port <= 65_535:
        raise UsageError(f"{port} is no port: ports are 0 to 65535")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        if isinstance(error, PermissionError):
            raise UsageError(f"port {port} cannot be used: {error.strerror}", hint="choose another port") from error
        raise BusyError(
            f"port {port} of {ADDRESS} is in use", hint="choose another port; 0 takes a free one"
        ) from error
    return listening


def _print(address: str) -> None:
    print(f"The explorer runs at {address}\nInterrupt it to end it.", flush=True)


def _open(address: str, private: Path) -> None:
    """The reader's browser, where there is one. Commands of a machine are seen by all its users, so the browser is told of a
    file that only this user reads, which leads to the address."""
    page = private / "explorer.html"
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">')
    with contextlib.suppress(Exception):
        webbrowser.open(page.as_uri())
