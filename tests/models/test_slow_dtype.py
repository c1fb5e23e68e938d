"""A model in a dtype that the CPU emulates: said once, for large models only, at the terminal in one line."""

import subprocess
import sys
import warnings

import pytest
import torch

from steercache.models import slow_dtype
from steercache.models.slow_dtype import SlowDtypeWarning, times_float32, warn_if_slow


def a_model(n_in: int, dtype: torch.dtype) -> torch.nn.Module:
    model = torch.nn.Linear(n_in, 8_000, bias=False, dtype=dtype)
    model.dtype, model.device = dtype, torch.device("cpu")
    return model


def warned(model: torch.nn.Module) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_if_slow(model)
    return [str(one.message) for one in found if one.category is SlowDtypeWarning]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which bfloat16 takes six times as long."""
    monkeypatch.setattr(slow_dtype, "times_float32", lambda dtype: 1.0 if dtype == torch.float32 else 6.2)


@pytest.mark.usefixtures("emulated")
def test_large_models_in_an_emulated_dtype_are_told_of_and_no_others() -> None:
    (text,) = warned(a_model(8_000, torch.bfloat16))
    assert "bfloat16 matrices 6 x" in text
    assert "dtype float32" in text
    assert not warned(a_model(8_000, torch.float32))
    assert not warned(a_model(100, torch.bfloat16))


def test_the_ratio_is_that_of_the_products_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    times = {torch.float32: iter([9.0, 2.0, 3.0, 2.5]), torch.bfloat16: iter([99.0, 14.0, 13.0, 20.0])}

    def product(x: torch.Tensor, w: torch.Tensor) -> None:
        assert x.dtype == w.dtype
        clock[0] += next(times[x.dtype])

    monkeypatch.setattr(slow_dtype.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.nn.functional, "linear", product)
    assert times_float32.__wrapped__(torch.bfloat16) == 6.5
    assert times_float32.__wrapped__(torch.float32) == 1.0


def test_the_terminal_shows_one_line_and_leaves_other_warnings_alone() -> None:
    script = (
        "import warnings, sys; from steercache.cli import main; from steercache.core.errors import SteercacheWarning\n"
        "def run(words):\n"
        "    warnings.warn('mind this', SteercacheWarning); warnings.warn('and that', UserWarning); return 0\n"
        "main.run = run; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines[0] == "note: mind this"
    assert any("UserWarning: and that" in line for line in lines[1:])
