"""A local server that speaks the part of the Hugging Face hub's API that huggingface_hub 2.4 calls for a dataset repository.

The requests and answers are those of huggingface_hub's source: `hf_api.py` (create_repo, list_repo_tree, create_commit,
_validate_yaml), `_commit_api.py` (_fetch_upload_modes, _send_commit), `lfs.py` (post_lfs_batch_info, lfs_upload). What is no
short text goes through the LFS batch API, as on the hub; the Xet protocol, which is another library's, is not spoken, and
switched off in the client. It refuses what the hub refuses: an object whose bytes do not have its SHA-256, a commit of an LFS
file that was never uploaded, a path that leaves the repository.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "someone/activations"


@dataclass
class Hub:
    """What the server holds. `commits` has the paths of every commit; `on_upload` is called after every LFS upload."""

    exists: bool = False
    private: bool | None = None
    files: dict[str, bytes | str] = field(
        default_factory=dict
    )  # bytes of a regular file, or the SHA-256 of an LFS object
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    on_upload: Callable[[], None] = lambda: None
    url: str = ""

    def content(self, path: str) -> bytes:
        """The bytes of a file."""
        stored = self.files[path]
        return self.objects[stored] if isinstance(stored, str) else stored


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_lfs(path: str, size: int) -> bool:
    return size > 10 * 2**20 or not path.endswith((".json", ".md"))  # .gitattributes of a data set, and the size rule


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while (n := int(self.rfile.readline().strip() or b"0", 16)) > 0:
                data += self.rfile.read(n)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        hub, path, body = self.hub, urlsplit(self.path).path, self._body()
        hub.requests.append(f"POST {path}")
        if path == "/api/repos/create":
            said = json.loads(body)
            if hub.exists:
                url = f"{hub.url}/datasets/{REPO}"  # which the client reads from this refusal, too
                self._send(409, {"error": "You already created this dataset repo", "url": url})
                return
            hub.exists, hub.private = True, said.get("visibility") == "private" or said.get("private")
            assert (said["type"], f"{said['organization']}/{said['name']}") == ("dataset", REPO)
            self._send(200, {"url": f"{hub.url}/datasets/{REPO}"})
        elif path == "/api/validate-yaml":
            ok = json.loads(body)["content"].startswith("---\n")
            self._send(200 if ok else 400, {"errors": [] if ok else [{"message": "no metadata"}], "warnings": []})
        elif path == f"/api/datasets/{REPO}/preupload/main":
            files = [self._mode(one) for one in json.loads(body)["files"]]
            self._send(200, {"files": files})
        elif path == f"/datasets/{REPO}.git/info/lfs/objects/batch":
            self._send(200, {"transfer": "basic", "objects": [self._action(o) for o in json.loads(body)["objects"]]})
        elif path == "/lfs/verify":
            said = json.loads(body)
            good = len(hub.objects.get(said["oid"], b"")) == said["size"]
            self._send(200 if good else 404)
        elif path == f"/api/datasets/{REPO}/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._send(404, {"error": "not spoken"})

    def _mode(self, one: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if _is_lfs(one["path"], one["size"]) else "regular"
        stored = self.hub.files.get(one["path"])
        known = {} if stored is None else {"oid": stored if isinstance(stored, str) else _oid(stored)}
        return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False, **known}

    def _action(self, said: dict[str, Any]) -> dict[str, Any]:
        if said["oid"] in self.hub.objects:
            return said  # there already: no action
        links = {"upload": f"/lfs/upload/{said['oid']}", "verify": "/lfs/verify"}
        return {**said, "actions": {name: {"href": self.hub.url + link} for name, link in links.items()}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        header, *operations = lines
        assert header["key"] == "header"
        assert header["value"]["summary"]
        new: dict[str, bytes | str] = {}
        for one in operations:
            value = one["value"]
            if ".." in value["path"].split("/") or value["path"].startswith("/"):
                self._send(400, {"error": "Invalid path"})
                return
            if one["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile" and value["oid"] in self.hub.objects:
                new[value["path"]] = value["oid"]
            else:
                self._send(400, {"error": f"{one['key']} {value['path']}: no such LFS object"})
                return
        self.hub.files |= new
        self.hub.commits.append(sorted(new))
        oid = hashlib.sha1(str(len(self.hub.commits)).encode(), usedforsecurity=False).hexdigest()
        self._send(200, {"commitUrl": f"{self.hub.url}/datasets/{REPO}/commit/{oid}", "commitOid": oid})

    def do_PUT(self) -> None:
        data, oid = self._body(), self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != oid:
            self._send(400, {"error": "the bytes do not have this SHA-256"})
            return
        self.hub.objects[oid] = data
        self.hub.uploads.append(oid)
        self.hub.on_upload()
        self._send(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if not hub.exists:
            self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif path == f"/api/datasets/{REPO}/tree/main":
            self._send(200, [self._entry(name) for name in sorted(hub.files)])
        elif path.startswith(f"/datasets/{REPO}/resolve/main/"):
            name = path.removeprefix(f"/datasets/{REPO}/resolve/main/")
            stored = hub.files.get(name)
            if stored is None:
                self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            elif isinstance(stored, str):
                self._send(302, b"", Location=f"{hub.url}/lfs/get/{stored}")
            else:
                self._ranged(stored)
        elif path.startswith("/lfs/get/") and path.rpartition("/")[2] in hub.objects:
            self._ranged(hub.objects[path.rpartition("/")[2]])
        else:
            self._send(404, {"error": "not spoken"})

    def _entry(self, name: str) -> dict[str, Any]:
        stored, data = self.hub.files[name], self.hub.content(name)
        entry = {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
        return entry | (
            {"lfs": {"oid": stored, "size": len(data), "pointerSize": 130}} if isinstance(stored, str) else {}
        )

    def _ranged(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self._send(206 if first else 200, data[first:])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A running server."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
