"""Scenes are drawn once in a test process: every sweep reads the same 450, which took a fifth of a small one's time."""

from collections.abc import Iterator
from typing import Any

import pytest

from steercache.data.benchmarks import drawn
from steercache.data.scenes import SceneExample, make_example

_MADE: dict[tuple[Any, ...], SceneExample] = {}


def made_once(seed: int, idx: int, **options: Any) -> SceneExample:
    """`make_example`, which gives the same scene for the same arguments, remembered."""
    key = (seed, idx, *(f"{name}={options[name]!r}" for name in sorted(options)))
    if key not in _MADE:
        _MADE[key] = make_example(seed, idx, **options)
    return _MADE[key]


@pytest.fixture(autouse=True, scope="session")
def drawn_once() -> Iterator[None]:
    """The benchmark remembers its scenes; `make_example` itself does not."""
    patch = pytest.MonkeyPatch()
    patch.setattr(drawn, "make_example", made_once)
    yield
    patch.undo()
