"""sae-lens is imported here first: its dependencies warn as they are imported, and warnings are errors in the tests."""

import socket
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sae_lens
import huggingface_hub.constants

__all__ = ["sae_lens"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network: connecting anywhere fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"the network was asked: {args[1:]}")

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(
        huggingface_hub.constants, "HF_HUB_OFFLINE", True
    )  # else what is missing is asked for, with retries
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return cache
