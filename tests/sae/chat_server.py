"""A server of the chat protocol on loopback that does what a test says, request by request."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request: its body and key are noted, then the next act answers it; the last act answers all that follow."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        length = int(self.headers.get("Content-Length", 0))
        self.asked: Any = json.loads(self.rfile.read(length))
        with server.lock:
            server.seen.append({"path": self.path, "body": self.asked, "headers": dict(self.headers)})
            act = server.acts.pop(0) if len(server.acts) > 1 else server.acts[0]
            server.running += 1
            server.most = max(server.most, server.running)
        try:
            act(self)
        finally:
            with server.lock:
                server.running -= 1

    def send(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Silence."""


def says(text: Any, **changes: Any) -> Act:
    """A proper reply."""
    document = {
        "model": "judge-1",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    return lambda h: h.send(200, json.dumps(document | changes).encode())


def status(code: int, data: bytes = b"{}", kind: str = "application/json", **headers: str) -> Act:
    """A refusal."""
    return lambda h: h.send(code, data, kind, **headers)


def cut(h: Handler) -> None:
    """A connection that ends in the middle of the body."""
    h.send_response(200)
    h.send_header("Content-Length", "1000")
    h.end_headers()
    h.wfile.write(b'{"choices": [')
    h.wfile.flush()
    h.connection.shutdown(socket.SHUT_RDWR)
    h.close_connection = True


def drip(stop: threading.Event) -> Act:
    """Headers, then a byte now and then, without end."""

    def act(h: Handler) -> None:
        h.send_response(200)
        h.send_header("Content-Length", "100000")
        h.end_headers()
        while not stop.wait(0.05):
            try:
                h.wfile.write(b" ")
                h.wfile.flush()
            except OSError:
                break
        h.close_connection = True

    return act


def hang(stop: threading.Event) -> Act:
    """Nothing at all."""

    def act(h: Handler) -> None:
        stop.wait(20)
        h.close_connection = True

    return act


def huge(h: Handler) -> None:
    """A body without end."""
    h.send_response(200)
    h.send_header("Content-Length", str(2**40))
    h.end_headers()
    try:
        while True:
            h.wfile.write(b" " * 2**16)
    except OSError:
        h.close_connection = True


@contextmanager
def serving(*acts: Act) -> Iterator[Any]:
    """The server; `.url` is its base address, `.seen` its requests, `.most` how many ran at a time."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.acts, server.seen, server.lock, server.running, server.most = list(acts), [], threading.Lock(), 0, 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
