"""The explorer as a web application: its routes, and what it answers when something is wrong."""

import os
import sys
import traceback
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from steercache.api.cache import Cache
from steercache.core.errors import BusyError, MissingExtraError, NotFoundError, SteercacheError
from steercache.explorer.directions import Directions
from steercache.explorer.guard import Guard
from steercache.explorer.rendering import message_of, page
from steercache.explorer.results import Results
from steercache.explorer.run_pages import RunPages
from steercache.explorer.sample_pages import SamplePages
from steercache.explorer.sql_page import SqlPage
from steercache.explorer.vector_pages import VectorPages

STATIC: Final = {"style.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}


def create_app(cache: Cache, *, token: str, sql_time_s: float = 10.0) -> Guard:
    """The application over a cache, behind its guard. `sql_time_s` is the time that a statement of the SQL page may take."""
    directions = Directions(cache)
    runs, samples = RunPages(cache, directions), SamplePages(cache, directions)
    vectors, results, sql = VectorPages(cache, directions), Results(cache), SqlPage(cache, time_s=sql_time_s)
    routes = [
        Route("/", runs.overview),
        Route("/runs/{run_id:id}", runs.run),
        Route("/runs/{run_id:id}/samples/{n:n}", samples.sample),
        Route("/runs/{run_id:id}/samples/{n:n}/values", samples.values),
        Route("/runs/{run_id:id}/samples/{n:n}/token/{i:n}", samples.token),
        Route("/runs/{run_id:id}/samples/{n:n}/picture.png", samples.picture),
        Route("/vectors", vectors.vectors),
        Route("/vectors/{vector_id:id}", vectors.vector),
        Route("/saes", vectors.saes),
        Route("/saes/{sae_id:id}/{run_id:id}", vectors.sae),
        Route("/results", results.results),
        Route("/results/{sweep_id:id}", results.result),
        Route("/results/{sweep_id:id}/report", results.report),
        Route("/sql", sql.page, methods=["GET", "POST"]),
        Route("/static/{name}", static),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_error, SteercacheError: _our_error, Exception: _bug},
    )
    app.state.cache_name = cache.root.absolute().name
    app.state.root = cache.root
    return Guard(app, token=token)


def static(request: Request) -> Response:
    """One of the files that ship: looked up, never joined to a path."""
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    data = (resources.files("steercache.explorer") / "static" / name).read_bytes()
    return Response(data, media_type=STATIC[name], headers={"Cache-Control": "max-age=3600"})


def _failed(request: Request, status: int, title: str, message: str) -> Response:
    if request.url.path.endswith(("/values",)) or "/token/" in request.url.path:
        return JSONResponse({"error": message}, status_code=status)
    return page(request, "error.html", status=status, title=title, message=message)


def _our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SteercacheError)
    known = {NotFoundError: 404, BusyError: 503, MissingExtraError: 501}
    status = next((code for kind, code in known.items() if isinstance(error, kind)), 400)
    hint = f" Try: {error.hint}." if isinstance(error, MissingExtraError) and error.hint else ""
    return _failed(request, status, "That did not work", message_of(error, request.app.state.root) + hint)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "There is no such page." if error.status_code == 404 else "This cannot be asked."
    return _failed(request, error.status_code, "Not found" if error.status_code == 404 else "Not allowed", message)


def _bug(request: Request, error: Exception) -> Response:
    """A fault of ours: the terminal gets its kind, and the traceback on request; the browser neither."""
    print(f"explorer: {type(error).__name__} in {_route_of(request)}", file=sys.stderr)
    if os.environ.get("STEERCACHE_DEBUG") == "1":
        traceback.print_exception(error)
    return _failed(
        request, 500, "A fault of the explorer", "The terminal names it; with STEERCACHE_DEBUG=1 it shows more."
    )


def _route_of(request: Request) -> Any:
    """The path without the key that it begins with."""
    return request.url.path.removeprefix(request.scope.get("root_path", ""))
