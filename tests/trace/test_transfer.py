"""Copies to the host that are under way while the next pass computes: nothing reads them too early, and not many wait.

There is no GPU here. The tests use copies that are made only when somebody waits for them, in place of copies on a side stream.
The calls to CUDA are recorded, and their order is compared with the one that CUDA needs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steercache.trace.capture import capture, make_begin
from steercache.trace.transfer import AtOnce, BesideCompute, Transfers
from tests.cache.contents import files_of, tables_of
from tests.steering.small import padded_batch, small_model
from tests.tracing import write_small_trace


class Late(AtOnce):
    """What is handed out is filled when it is waited for, and not before the pass is over."""

    n_open = most_open = 0

    def __init__(self) -> None:
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._closed, self._one_waits = False, Lock()
        Late.n_open += 1
        Late.most_open = max(Late.most_open, Late.n_open)

    def copy(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        value = tensor if dtype is None else tensor.to(dtype)
        self._copies.append((torch.full(value.shape, 7, dtype=value.dtype), value))
        return self._copies[-1][0]

    def close(self) -> None:
        self._closed = True

    def wait(self) -> None:
        assert self._closed
        with self._one_waits, torch.inference_mode():
            Late.n_open -= bool(self._copies)
            while self._copies:
                host, value = self._copies.pop()
                host.copy_(value)


class AllLate(Transfers):
    def begin(self, device: torch.device) -> Late:
        return Late()


@pytest.mark.parametrize("family", ["llama", "paligemma"])
def test_values_are_those_of_copies_that_are_at_hand(family: str) -> None:
    loaded, batch = small_model(family), padded_batch(family, lengths=(9, 12, 7))
    sites = ["resid_post", *(["connector_out"] if family == "paligemma" else [])]
    expected = capture(loaded, batch, sites=sites, layers=[0, 1], dtype="bfloat16")
    captured = make_begin(loaded, sites=sites, layers=[0, 1], dtype="bfloat16", transfers=AllLate())(batch)
    assert captured.shapes == {site: [value.shape for value in values] for site, values in expected.items()}
    assert bool((captured._states["resid_post"][0] == 7).all()), "nothing has come yet"
    for _ in range(2):
        found = captured.states()
        assert found.keys() == expected.keys()
        for site, values in expected.items():
            assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found[site], values, strict=True))


def test_a_build_with_copies_under_way_and_the_next_shard_encoded_meanwhile_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = write_small_trace(tmp_path / "t", n=40)
    trace.build(tmp_path / "plain")
    monkeypatch.setattr("steercache.trace.capture.Transfers", AllLate)
    monkeypatch.setattr("steercache.runs.shard.encodes_ahead", lambda loaded: True)
    Late.n_open = Late.most_open = 0
    built = trace.build(tmp_path / "late")
    assert files_of(tmp_path / "late") == files_of(tmp_path / "plain")
    assert tables_of(tmp_path / "late") == tables_of(tmp_path / "plain")
    assert built.n_shards_built > 2
    assert Late.n_open == 0
    assert Late.most_open in (1, 2), (
        "copies of two passes at most wait; on a busy machine those of one may be read at once"
    )


def test_streams_are_asked_for_what_cuda_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy begins when its value is computed; its memory stays until it has been read; who waits, waits for all of them."""
    done: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            done.append(f"{self.name} waits for {other.name}")

        def record_event(self) -> Any:
            done.append(f"event on {self.name}")
            return SimpleNamespace(synchronize=lambda: done.append(f"waited for {self.name}"))

    class OnGpu:
        """A tensor on GPU 1, as far as a copy looks at it."""

        device = SimpleNamespace(type="cuda", index=1)
        shape, dtype = (2,), torch.float32

        def record_stream(self, stream: Stream) -> None:
            done.append(f"kept for {stream.name}")

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        done.append(f"on {stream.name}")
        yield
        done.append(f"off {stream.name}")

    def pinned(shape: Any, **options: Any) -> Any:
        assert options == {"dtype": torch.float32, "device": "cpu", "pin_memory": True}
        return SimpleNamespace(copy_=lambda value, non_blocking: done.append(f"copy {non_blocking}"))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda gpu: Stream(f"compute {gpu}"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda gpu: Stream(f"side {gpu}"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    sides: dict[int, Any] = {}
    transfer = BesideCompute(sides)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", pinned)
        transfer.copy(OnGpu(), None)  # type: ignore[arg-type]
    transfer.close()
    transfer.wait()
    here = torch.ones(2)
    assert transfer.copy(here, None) is here, "what a model keeps on the CPU is at hand"
    assert done == [
        *("side 1 waits for compute 1", "on side 1", "copy True", "off side 1", "kept for side 1"),
        *("event on side 1", "waited for side 1"),
    ]
    assert BesideCompute(sides)._lanes[1].side is transfer._lanes[1].side, "streams are made once"


def test_nothing_is_copied_on_the_cpu() -> None:
    assert isinstance(Transfers().begin(torch.device("cpu")), AtOnce)
    value = torch.ones(3)
    assert AtOnce().copy(value, None) is value
    assert AtOnce().copy(value, torch.bfloat16).dtype == torch.bfloat16
