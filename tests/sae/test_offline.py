"""Where nothing is to be had: no network but a hub cache that the environment names, or no sae-lens."""

import hashlib
import http.server
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from steercache.core.errors import MissingExtraError
from steercache.sae.loading import load_sae
from tests.sae.folders import inference, saved
from tests.sae.hub import COMMIT, as_json, put, random, safetensors_bytes

PROGRAM = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")
socket.socket.connect = refuse
import steercache
print(steercache.load_sae("llama_scope_lxr_8x-l3").spec.sae_id)
"""


def put_llama_scope(cache: Path) -> None:
    entry = get_pretrained_saes_directory()["llama_scope_lxr_8x"]
    folder, scale, weights = entry.saes_map["l3r_8x"], entry.norm_scaling_factor["l3r_8x"], random(12, 40)
    said = {
        "d_model": 12,
        "d_sae": 40,
        "jump_relu_threshold": 0.1,
        "dataset_average_activation_norm": {"in": math.sqrt(12) / scale},
        "hook_point_in": "blocks.3.hook_resid_post",
    }
    tensors = {
        "encoder.weight": torch.from_numpy(weights["W_enc"].T.copy()),
        "decoder.weight": torch.from_numpy(weights["W_dec"].T.copy()),
        "encoder.bias": torch.from_numpy(weights["b_enc"]),
        "decoder.bias": torch.from_numpy(weights["b_dec"]),
    }
    files = {
        f"{folder}/hyperparams.json": as_json(said),
        f"{folder}/checkpoints/final.safetensors": safetensors_bytes(tensors),
    }
    put(cache, entry.repo_id, files)


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's way of serving a file: HEAD and GET of /OWNER/NAME/resolve/REVISION/FILE, with commit and digest."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    gated: ClassVar[bool] = False

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        if "/resolve/" in self.path:  # the hub's client also asks about itself
            self.asked.append(self.path)
        found = (
            None if self.gated else self.files.get(self.path.split("?")[0].partition("/resolve/")[2].partition("/")[2])
        )
        self.send_response(403 if self.gated else 404 if found is None else 200)
        if found is None:
            self.send_header("X-Error-Code", "GatedRepo" if self.gated else "EntryNotFound")
        content = found or b""
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


@pytest.mark.slow  # a new process imports sae-lens: its address of the hub is read once
def test_what_is_not_in_the_cache_is_fetched_into_it_once(hub: Path, tmp_path: Path) -> None:
    put_llama_scope(hub)
    snapshot = next(hub.glob("models--*/snapshots/*"))
    files = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    handler = type("Serving", (Hub,), {"files": files, "asked": [], "gated": False})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_HUB_CACHE": str(tmp_path / "empty"), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
    program = "import steercache\nprint(steercache.load_sae('llama_scope_lxr_8x-l3').spec.sae_id)"

    def load() -> subprocess.CompletedProcess[str]:
        where = Path(__file__).parents[2]
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=where, capture_output=True, text=True
        )

    first = load()
    assert first.returncode == 0, first.stderr
    assert first.stdout.split() == [load_sae("llama_scope_lxr_8x-l3").spec.sae_id]
    assert {*files} == {path.split("?")[0].partition("/resolve/main/")[2] for path in handler.asked}  # type: ignore[attr-defined]
    handler.asked.clear()  # type: ignore[attr-defined]
    assert load().stdout == first.stdout
    assert handler.asked == []  # type: ignore[attr-defined]
    handler.gated, environment["HF_HUB_CACHE"] = True, str(tmp_path / "other")  # type: ignore[attr-defined]
    refused = load()
    assert "the hub's repository is gated" in refused.stderr
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_a_new_process_finds_the_hubs_cache_by_the_environment_and_asks_no_network(
    variable: str, hub: Path, tmp_path: Path
) -> None:
    put_llama_scope(hub)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {variable: str(hub if variable == "HF_HUB_CACHE" else tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [load_sae("llama_scope_lxr_8x-l3").spec.sae_id]


def test_without_sae_lens_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(inference("standard"), tmp_path / "sae")
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(MissingExtraError) as caught:
        load_sae(folder)
    assert caught.value.hint == "pip install 'steercache[sae]'"
    assert caught.value.exit_code == 6
