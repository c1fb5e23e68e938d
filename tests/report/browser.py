"""A real browser without a window, driven through a pipe: what a page is once it is laid out."""

import fcntl
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic")
OFFLINE = (
    *_QUIET,
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
PATIENCE = 30  # seconds


class Tab:
    """One page. Commands and events are those of the Chrome DevTools protocol."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._n, self._rest = reading, writing, 0, b""
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The result of a command; events that come before it are kept."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": params, **self._session}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._n:
                assert "error" not in said, said
                return said["result"]
            self.events.append(said)

    def open(self, page: Path | str) -> None:
        """Load a file, or an address, and wait until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri() if isinstance(page, Path) else page)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def look(self, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """The width of the window in CSS pixels, the reader's wish for a dark page, screen or print."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], PATIENCE)
            assert ready, f"the browser says nothing for {PATIENCE} s; it last said {self.events[-3:]}"
            part = os.read(self._reading, 1 << 16)
            assert part, "the browser ended"
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        said: dict[str, Any] = json.loads(one)
        assert said.get("method") != "Page.javascriptDialogOpening", said  # a page of ours asks nothing
        return said


@contextmanager
def browser_tab(folder: Path, *, resolver: str = "") -> Iterator[Tab]:
    """A browser with one empty page; it keeps its files in `folder` and knows no network, but for what `resolver` puts before
    its rules for names of hosts."""
    assert BROWSER is not None, "no browser: `apt-get install chromium`, as .ci/run does"
    ends = [*os.pipe(), *os.pipe()]
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends]  # none of them may be 3 or 4 itself
    for end in ends:
        os.close(end)
    its_in, our_out, our_in, its_out = high
    shell = ["bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "bash", BROWSER, *OFFLINE]
    command = [*shell, "--remote-debugging-pipe", f"--user-data-dir={folder}"]
    if resolver:
        command = [
            one.replace("=", f"={resolver}, ", 1) if one.startswith("--host-resolver-rules") else one for one in command
        ]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, pass_fds=(its_in, its_out), stdin=quiet, stdout=quiet, stderr=quiet)
    os.close(its_in)
    os.close(its_out)
    try:
        yield Tab(our_in, our_out)
    finally:
        os.close(our_out)  # the browser ends with its pipe
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(our_in)
