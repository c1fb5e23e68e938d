"""Real servers of object stores on loopback, and a proxy before one of them that makes what networks make."""

import base64
import contextlib
import hmac
import http.client
import os
import random
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MOTO = REPOSITORY / ".venv-peers" / "bin" / "moto_server"
SECRET = "a-secret-that-nobody-may-see"
BUCKET = "activations"
Fault = str | None  # latency, error, slow-down, throttled, cut, expired; None: none


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def moto(host: str = "127.0.0.1") -> Iterator[int]:
    """moto's S3 with an empty bucket; its port."""
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([str(MOTO), "-H", host, "-p", str(port)], **quiet)  # type: ignore[call-overload]
    try:
        end = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=5).read()
                break
            except OSError:
                if time.monotonic() > end or server.poll() is not None:
                    raise
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def environment(port: int, host: str = "127.0.0.1") -> dict[str, str]:
    """What a person sets to use it."""
    return {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }


@dataclass
class Faults:
    """Which fault the next request meets, and how many of each there were."""

    choose: Callable[[], Fault] = lambda: None
    seen: Counter[str] = field(default_factory=Counter)
    puts: list[str] = field(default_factory=list)
    got: list[str] = field(default_factory=list)
    latency_s: float = 0.05
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> Fault:
        with self.lock:
            fault = self.choose()
            if fault is not None:
                self.seen[fault] += 1
            return fault


def at_random(seed: int, share: float, *kinds: str) -> Callable[[], Fault]:
    drawn = random.Random(seed)
    return lambda: drawn.choice(kinds) if drawn.random() < share else None


@contextmanager
def proxy(upstream: int) -> Iterator[tuple[int, Faults]]:
    """A server that hands requests on, or does not."""
    faults = Faults()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.next()
            if fault == "latency":
                time.sleep(faults.latency_s)
            elif fault in ("error", "slow-down", "throttled", "expired"):
                status, code = {
                    "error": (500, "InternalError"),
                    "slow-down": (503, "SlowDown"),
                    "throttled": (429, "TooManyRequests"),
                    "expired": (403, "ExpiredToken"),
                }[fault]
                self.answer(status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())
                return
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=30)
            connection.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            if self.command == "PUT" and answer.status < 300:
                faults.puts.append(self.path.partition("?")[0])
            if self.command == "GET":
                faults.got.append(self.path.partition("?")[0])
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            self.answer(answer.status, headers, data, cut=fault == "cut")
            connection.close()

        def answer(self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False) -> None:
            with contextlib.suppress(OSError):
                self.send_response(status)
                length = (
                    {} if "Content-Length" in headers and self.command == "HEAD" else {"Content-Length": str(len(data))}
                )
                for name, value in ({k: v for k, v in headers.items() if k not in length} | length).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":  # whose answer has no body: it would be taken for the next one's beginning
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                self.wfile.flush()
                if cut:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

    for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.serve)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, faults
    finally:
        server.shutdown()
        server.server_close()


ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # published, of every emulator


def _make_container(port: int) -> None:
    """One signed request (Shared Key, version 2021-12-02)."""
    date = formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02\n"
    said = "PUT" + "\n" * 12 + headers + f"/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), said.encode(), "sha256")).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{ACCOUNT}/{BUCKET}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": "2021-12-02",
            "Authorization": f"SharedKey {ACCOUNT}:{signature}",
        },
    )
    urllib.request.urlopen(request, timeout=10).read()


@contextmanager
def azurite(folder: Path) -> Iterator[dict[str, str]]:
    """Azurite with a container; what a person sets to use it. Needs the npm package, named by AZURITE or on the path."""
    port = free_port()
    command = [os.environ.get("AZURITE", "azurite-blob"), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                if time.monotonic() > end or server.poll() is not None:
                    raise
                time.sleep(0.1)
        _make_container(port)
        yield {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}"}
    finally:
        server.terminate()
        server.wait()
