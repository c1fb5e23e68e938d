"""What a request must have before any page is made, and the headers that every response gets.

The server listens on loopback, where other users of the machine and every page in the reader's browser can reach it. So:

- The path begins with a token that only the printed address has. It stands in the path and not in a cookie: browsers send
  cookies of 127.0.0.1 to the servers of all ports, those of other users included.
- `Host` names loopback (DNS rebinding), and `Origin`, where a browser sends one, is this very server.
- Nothing but GET and HEAD, and POST for the SQL box.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY: Final = 400_000  # bytes of a form: the longest statement that queries take, and its parameters
POSTS: Final = frozenset({"/sql"})
_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # `no-referrer` would hide the Origin of our own form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request gets no page."""

    status: int
    reason: str


class Guard:
    """The application behind the checks. `token` is the first segment of every path that is answered."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        refusal = refuse(scope["method"], scope["path"], headers, token=self._token)
        answer: ASGIApp
        if refusal is not None:
            answer = PlainTextResponse(f"{refusal.reason}\n", status_code=refusal.status)
        elif scope["path"] == f"/{self._token}":
            answer = RedirectResponse(f"/{self._token}/")
        else:
            answer, scope = self._app, {**scope, "root_path": f"/{self._token}"}
        await answer(scope, _bounded(receive), _with_headers(send))


def refuse(method: str, path: str, headers: Headers, *, token: str) -> Refusal | None:
    """Why a request is refused; None for one that may go on."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return Refusal(403, "this server answers only to 127.0.0.1 and localhost")
    origins = headers.getlist("origin")
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
        return Refusal(403, "requests of other pages are not answered")
    to_read = method in ("GET", "HEAD")
    walks_in = to_read and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not walks_in:
        return Refusal(403, "requests of other pages are not answered")
    first, _, rest = path.removeprefix("/").partition("/")
    if not hmac.compare_digest(first.encode(errors="replace"), token.encode()):
        return Refusal(403, "open the whole address that `steercache serve` printed: it holds the key to this server")
    if to_read:
        return None
    if method != "POST" or f"/{rest}" not in POSTS:
        return Refusal(405, "this server only reads")
    if not origins:
        return Refusal(403, "requests of other pages are not answered")
    length = headers.get("content-length", "")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY:
        return Refusal(413, f"a form has at most {MAX_BODY:,} bytes")
    return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def _bounded(receive: Receive) -> Receive:
    """The body as it comes, and nothing beyond the limit, whatever the header said."""
    n_bytes = 0

    async def receiving() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        return message if n_bytes <= MAX_BODY else {"type": "http.disconnect"}

    return receiving
