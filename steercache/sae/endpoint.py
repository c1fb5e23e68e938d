"""One OpenAI-compatible chat endpoint: requests with retries, time-outs and bounded concurrency; every failure has a sentence.

The key is read from an environment variable when a request is made. It is in no value, file, log or message of ours; where a
server sends it back, it is replaced.
"""

import asyncio
import json
import math
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from steercache.core.errors import MissingExtraError, UsageError
from steercache.core.ids import canonical_json

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE: Final = "STEERCACHE_JUDGE_KEY"
PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType({"temperature": 0, "max_tokens": 400})
MAX_BODY: Final = 2**20  # bytes of a reply; an answer has some hundred
_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FOR_ALL: Final = frozenset({401, 403, 404})  # the next request would be refused alike
_HIDDEN: Final = "[key]"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeEndpoint:
    """Where a judge is asked: `base_url` such as http://127.0.0.1:8000/v1, and the model's name there.

    `parameters` are sent with every request (temperature, max_tokens and so on). A request is tried `attempts` times, each at
    most `timeout_s` seconds; waits double from `wait_s`, by chance up to half more or less. A server that asks to wait longer
    than `max_wait_s` is not waited for. `concurrency` requests run at a time.

    Raises:
        UsageError: no http(s) address, a name or password in it, or a number out of range.
    """

    base_url: str
    model: str
    key_variable: str = KEY_VARIABLE
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(PARAMETERS))
    timeout_s: float = 120.0
    attempts: int = 4
    wait_s: float = 1.0
    max_wait_s: float = 120.0
    concurrency: int = 4

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if "@" in parts.netloc:
            raise UsageError(
                "an endpoint's address holds no name and password", hint=f"put the key into {self.key_variable}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(f"{self.base_url!r} is no address of an endpoint", hint="such as http://127.0.0.1:8000/v1")
        if not self.model:
            raise UsageError("the judge's model has no name", hint="the name under which the endpoint serves it")
        positive = (self.timeout_s, self.max_wait_s, self.wait_s)
        if not all(math.isfinite(one) and one > 0 for one in positive) or self.attempts < 1 or self.concurrency < 1:
            raise UsageError("times, attempts and concurrency of an endpoint are positive numbers")
        taken = {"model", "messages", "stream"} & self.parameters.keys()
        try:
            canonical_json(dict(self.parameters))
        except (TypeError, ValueError) as error:
            raise UsageError(f"the judge's parameters are no JSON: {error}") from error
        if taken:
            raise UsageError(f"the judge's parameters hold {', '.join(sorted(taken))}, which is set by other means")

    @property
    def url(self) -> str:
        """The address that completions are posted to."""
        return f"{self.base_url.rstrip('/')}/chat/completions"


class ReplyError(Exception):
    """No reply came. `again`: another try may help; `for_all`: no other request would be answered either."""

    def __init__(
        self,
        message: str,
        *,
        again: bool = True,
        for_all: bool = False,
        wait_s: float | None = None,
        lost: bool = False,
    ) -> None:
        super().__init__(message)
        self.message, self.again, self.for_all, self.wait_s, self.lost = message, again, for_all, wait_s, lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model wrote, the name it gave itself, and why it stopped."""

    text: str
    model: str | None
    finish_reason: str | None


class Client:
    """Asks one endpoint; an async context manager."""

    def __init__(self, endpoint: JudgeEndpoint) -> None:
        self.endpoint = endpoint
        self._http: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._not_before = 0.0  # of the loop's clock: a server asked everybody to wait
        self._given_up: ReplyError | None = None
        self._n_heard = 0

    async def __aenter__(self) -> "Client":
        _key(self.endpoint.key_variable)  # a key that cannot be one is an error before the first request
        timeout_s = self.endpoint.timeout_s
        self._http = _httpx().AsyncClient(follow_redirects=False, timeout=timeout_s, verify=_certificates())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._http is not None
        await self._http.aclose()

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """The reply to one request body. Raises ReplyError."""
        async with self._slots:
            for attempt in range(1, self.endpoint.attempts + 1):
                if self._given_up is not None:
                    raise self._given_up
                await self._wait(self._not_before - asyncio.get_running_loop().time())
                try:
                    reply = await self._once(body)
                except ReplyError as error:
                    await self._after(error, attempt)
                else:
                    self._n_heard += 1
                    return reply
        raise AssertionError("the last attempt returns or raises")

    async def _after(self, error: ReplyError, attempt: int) -> None:
        """Wait for the next attempt, or raise where there is none."""
        last = attempt >= self.endpoint.attempts
        if error.for_all or (error.lost and last and not self._n_heard):
            self._given_up = error
        if not error.again or last:
            tried = f" ({attempt} attempts)" if attempt > 1 else ""
            raise ReplyError(error.message + tried, again=False, for_all=error.for_all)
        wait_s = error.wait_s
        if wait_s is None:
            wait_s = min(self.endpoint.wait_s * 2 ** (attempt - 1), self.endpoint.max_wait_s)
            wait_s *= random.uniform(0.5, 1.5)
        elif wait_s > self.endpoint.max_wait_s:
            limit = f"at most {self.endpoint.max_wait_s:.0f} s are waited"
            raise ReplyError(f"{error.message}; it asks to wait {wait_s:.0f} s, and {limit}", again=False)
        else:
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + wait_s)
        await self._wait(wait_s)

    async def _wait(self, wait_s: float) -> None:
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def _once(self, body: Mapping[str, Any]) -> Reply:
        httpx = _httpx()
        key = _key(self.endpoint.key_variable)
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                status, headers, data = await self._post(body, key)
        except TimeoutError:
            raise ReplyError(f"no whole reply within {self.endpoint.timeout_s:g} s", lost=True) from None
        except httpx.TransportError as error:
            reason = _without(key, str(error)) or type(error).__name__
            raise ReplyError(f"the connection failed: {reason}", lost=True) from None
        if status != 200:
            raise _refused(status, headers, _without(key, _shown(data)))
        return _reply(data, key)

    async def _post(self, body: Mapping[str, Any], key: str | None) -> "tuple[int, httpx.Headers, bytes]":
        assert self._http is not None
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        parts, n_bytes = [], 0
        async with self._http.stream("POST", self.endpoint.url, json=dict(body), headers=headers) as response:
            if "content-encoding" in response.headers:
                raise ReplyError("the reply is compressed, which was not asked for", again=False)
            async for part in response.aiter_raw():
                n_bytes += len(part)
                if n_bytes > MAX_BODY:
                    raise ReplyError(f"the reply is longer than {MAX_BODY // 2**20} MiB", again=False)
                parts.append(part)
            return response.status_code, response.headers, b"".join(parts)


def _refused(status: int, headers: Mapping[str, str], shown: str) -> ReplyError:
    """A status that is not 200, as an error with what the server says about it."""
    if 300 <= status < 400:
        return ReplyError(f"HTTP {status}: the endpoint is at another address", again=False, for_all=True)
    wait_s = _retry_after(headers.get("retry-after"))
    said = f": {shown}" if shown else ""
    return ReplyError(f"HTTP {status}{said}", again=status in _AGAIN, for_all=status in _FOR_ALL, wait_s=wait_s)


def _retry_after(value: str | None) -> float | None:
    """Seconds that a server asks to wait: a number, or a date; None for neither.

    >>> _retry_after("3"), _retry_after("soon"), _retry_after("Thu, 01 Jan 1970 00:00:00 GMT")
    (3.0, None, 0.0)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _reply(data: bytes, key: str | None) -> Reply:
    """The reply in a body of the protocol. Raises ReplyError for anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ReplyError(f"the reply is not JSON: {_without(key, _shown(data))!r}") from None
    try:
        choice = document["choices"][0]
        content, finish = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ReplyError("the reply holds no choice with a message") from None
    if isinstance(content, list):  # text in parts, as some servers send it
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str) or not content.strip():
        raise ReplyError("the reply's message is empty")
    text = _without(key, content.encode("utf-8", "replace").decode("utf-8"))  # half a surrogate is no text
    model = document.get("model")
    return Reply(
        text=text,
        model=_without(key, model) if isinstance(model, str) else None,
        finish_reason=finish if isinstance(finish, str) else None,
    )


def _shown(data: bytes) -> str:
    """The beginning of a body in one line, without markup."""
    text = data[:4000].decode("utf-8", "replace")
    try:
        error = json.loads(data)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        text = re.sub(r"<[^>]*>", " ", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def _without(key: str | None, text: str) -> str:
    return text.replace(key, _HIDDEN) if key else text


def _key(variable: str) -> str | None:
    """The key, as it can stand in a header; None where the variable is not set.

    Raises:
        UsageError: it holds what no header can; the message does not hold it.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= c <= "~" for c in key):
        raise UsageError(f"the key in {variable} holds characters that no key has", hint="set it again")
    return key or None


@cache
def _certificates() -> Any:
    """What servers are verified with; reading it takes longer than a request."""
    return _httpx().create_ssl_context()


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError(
            "a judge needs httpx, which is not installed", hint="pip install 'steercache[sae]'"
        ) from error
    return httpx
