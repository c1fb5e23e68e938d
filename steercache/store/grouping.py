"""Gathering rows that lie in several pieces (shards, chunks): one fancy index per piece, results in the given order."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]
Places = npt.NDArray[np.int64]


def take_grouped(piece_n: Places, place_n: Places, out_nd: Rows, take: Callable[[int, Places, Rows], object]) -> None:
    """Fill `out_nd`: its row i is the one at `place_n[i]` of piece `piece_n[i]`.

    `take(piece, places, out)` is called once per piece, pieces ascending, with a contiguous `out`. Rows that come sorted by
    piece are written where they belong at once; others pass through one buffer.
    """
    if bool((piece_n[1:] >= piece_n[:-1]).all()):
        _take_sorted(piece_n, place_n, out_nd, take)
        return
    order_n = np.argsort(piece_n, kind="stable")
    sorted_nd = np.empty_like(out_nd)
    _take_sorted(piece_n[order_n], place_n[order_n], sorted_nd, take)
    out_nd[order_n] = sorted_nd


def _take_sorted(piece_n: Places, place_n: Places, out_nd: Rows, take: Callable[[int, Places, Rows], object]) -> None:
    cuts = [0, *(np.flatnonzero(np.diff(piece_n)) + 1).tolist(), len(piece_n)]
    for start, end in pairwise(cuts):
        take(int(piece_n[start]), place_n[start:end], out_nd[start:end])
