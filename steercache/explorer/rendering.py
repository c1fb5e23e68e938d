"""Pages from templates: everything that is put into one is escaped, and nothing in it is invisible."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from steercache.api.shown import visible
from steercache.core.errors import SteercacheError
from steercache.core.ids import SHORT_ID
from steercache.core.trials import cell_words

_PATH: Final = re.compile(r"(?<![\w/.:])(?:/[\w.@+~-]+){2,}/?|(?<![\w/.])~/[\w./@+-]+")
MAX_MESSAGE: Final = 2000


@cache
def environment() -> Environment:
    """The templates."""
    env = Environment(
        loader=PackageLoader("steercache.explorer"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"short": short, "count": count, "number": number, "cell_words": cell_words}
    return env


def _shown(value: Any) -> Any:
    """Strings of users with their hidden characters named; `Markup` is ours."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page; every template knows `base`, what all links of the explorer begin with, and the cache's name."""
    text = (
        environment()
        .get_template(template)
        .render(base=request.scope["root_path"], cache_name=request.app.state.cache_name, **values)
    )
    return HTMLResponse(text.encode(errors="replace"), status_code=status)


def short(text: str) -> str:
    """An id as people see it."""
    return text[:SHORT_ID]


def count(n: int | None) -> str:
    """A whole number with separators; a dash for none."""
    return "–" if n is None else f"{n:,}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with few digits; a dash for none.

    >>> number(0.12345), number(1234567.0), number(None)
    ('0.123', '1.23e+06', '–')
    """
    return "–" if value is None or value != value else f"{value:.{digits}g}"


def message_of(error: SteercacheError, root: Path) -> str:
    """What an error says, without the folders of this machine."""
    return without_paths(error.message, root)[:MAX_MESSAGE]


def without_paths(text: str, root: Path) -> str:
    """A text in which only the last part of a path is left.

    >>> without_paths("/home/me/cache/runs/a: it is gone", Path("/home/me/cache"))
    '.../a: it is gone'
    """
    for whole in {str(root), str(root.absolute())}:
        if len(whole) > 1:
            text = text.replace(whole, "/the/cache")
    return _PATH.sub(lambda found: f".../{found[0].rstrip('/').rpartition('/')[2]}", text)
