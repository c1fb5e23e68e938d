"""SAE releases in exactly the layout of the Hugging Face hub's cache, with random weights of a tiny width.

`models--owner--name/{refs/main, snapshots/<commit>/..., blobs/<hash>}`: snapshots hold links to blobs, as the hub's own client
writes them.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put(cache: Path, repository: str, files: Mapping[str, bytes], *, commit: str = COMMIT) -> Path:
    """Files of one commit of a repository, at `main`; returns the snapshot's folder."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    (home / "blobs").mkdir(parents=True, exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    for name, content in files.items():
        blob = home / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(Path(*[".."] * (len(path.relative_to(home).parts) - 1)) / "blobs" / blob.name)
    return snapshot


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def safetensors_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def torch_bytes(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def random(d_in: int, d_sae: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by their published names, float32; thresholds are positive."""
    draw = np.random.default_rng(seed)
    shapes = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_enc": (d_sae,),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
    made = {name: (draw.standard_normal(shape) * 0.4).astype(np.float32) for name, shape in shapes.items()}
    made["threshold"] = np.abs(made["threshold"])
    return made
