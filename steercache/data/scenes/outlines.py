"""Every shape as a closed polygon around the origin, inside the unit square [-1, 1] x [-1, 1], y downwards."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.float64]


def _polygon(n: int, *, start_deg: float = -90.0) -> Outline:
    angle_n = np.deg2rad(start_deg) + 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle_n), np.sin(angle_n)], axis=1)


def _star(points: int, *, inner: float) -> Outline:
    outline = _polygon(2 * points)
    outline[1::2] *= inner
    return outline


def _cross() -> Outline:
    a, b = 0.95, 0.32
    corners = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]
    return np.array(corners)


def _heart() -> Outline:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 16, -(y + 2.5) / 15], axis=1)


def _moon() -> Outline:
    outer_deg = np.deg2rad(np.linspace(60, 300, 24))
    outer = np.stack([np.cos(outer_deg), np.sin(outer_deg)], axis=1)
    inner_deg = np.deg2rad(np.linspace(282, 78, 18))
    inner = np.stack([0.5 + 0.88 * np.cos(inner_deg) * 0.9, 0.88 * np.sin(inner_deg)], axis=1)
    crescent: Outline = np.concatenate([outer, inner]) + np.array([0.2, 0.0])
    return crescent


_SQUARE = np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
_DIAMOND = np.array([(0.0, -1.0), (0.68, 0.0), (0.0, 1.0), (-0.68, 0.0)])

PLAIN: Mapping[str, Callable[[], Outline]] = MappingProxyType(
    {
        "circle": lambda: _polygon(32) * 0.9,
        "square": lambda: _SQUARE.copy(),
        "triangle": lambda: _polygon(3) * 1.05,
        "star": lambda: _star(5, inner=0.42) * 1.08,
        "cross": _cross,
        "heart": _heart,
        "diamond": lambda: _DIAMOND.copy(),
        "moon": _moon,
    }
)

SHIFTED: Mapping[str, Callable[[], Outline]] = MappingProxyType(
    {
        "circle": lambda: _polygon(32) * np.array([1.0, 0.74]),  # an ellipse
        "square": lambda: _SQUARE * np.array([1.1, 0.82]),
        "triangle": lambda: np.array([(-0.9, 0.8), (0.9, 0.8), (-0.9, -0.95)]),  # right-angled
        "star": lambda: _star(6, inner=0.5) * 1.05,
        "cross": lambda: _cross() * np.array([0.8, 1.0]),
        "heart": lambda: _heart() * np.array([0.85, 1.05]),
        "diamond": lambda: _DIAMOND * np.array([1.1, 0.9]),
        "moon": lambda: _moon() * np.array([-1.0, 1.0]),  # the other phase
    }
)


def outline_of(shape: str, *, shifted: bool) -> Outline:
    """The outline of `shape`, shape (n, 2)."""
    return (SHIFTED if shifted else PLAIN)[shape]()
