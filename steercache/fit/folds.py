"""Folds that split neither sentences nor anchor words, so that a held-out score cannot come from having seen the word."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from steercache.core.selection import RowIndex, Selection
from steercache.fit.sides import BoolArray, LabelledSides

N_FOLDS = 5
FoldArray = npt.NDArray[np.int64]


def group_rows(sel: Selection, sides: LabelledSides) -> RowIndex:
    """Number the groups that folds must keep whole, shape (n,).

    Two sentences are of one group when the concept's rows of both hold the same word (the anchor, or a token of it; with or
    without a space or capitals), or when a chain of such sentences leads from one to the other. Contrastive pairs are grouped
    by pair and sentence instead: their two sides end in the same token, which tells nothing.
    """
    sample = np.unique(sel.sample_idx, return_inverse=True)[1].astype(np.int64)
    if sel.pair is not None:
        return _components(sample, np.unique(sel.pair, return_inverse=True)[1].astype(np.int64), sample)
    word = np.unique((sel.token_id if sel.words is None else sel.words())[sides.label], return_inverse=True)[1]
    return _components(sample[sides.label], word.astype(np.int64), sample)


def assign_folds(groups: RowIndex, label: BoolArray, *, n_folds: int = N_FOLDS) -> FoldArray:
    """Give every group to a fold, the largest first, each to the fold with the fewest rows; shape (n,), no chance in it.

    Groups that hold the concept's side are dealt before those that do not, so that every fold gets some of each.
    """
    n_groups = int(groups.max()) + 1
    n_rows = np.bincount(groups, minlength=n_groups)
    has_concept = np.bincount(groups, weights=label, minlength=n_groups) > 0
    fold_of = np.zeros(n_groups, np.int64)
    for kind in (has_concept, ~has_concept):
        load = np.zeros(max(1, min(n_folds, n_groups)))
        members = np.flatnonzero(kind)
        for group in members[np.argsort(-n_rows[members], kind="stable")]:
            fold_of[group] = int(load.argmin())
            load[fold_of[group]] += n_rows[group]
    return fold_of[groups]


def usable_folds(fold: FoldArray, label: BoolArray) -> tuple[int, ...]:
    """Folds with both sides inside and both sides outside; none when there is only one group."""
    usable = []
    for f in range(int(fold.max()) + 1):
        inside = fold == f
        if all(0 < np.count_nonzero(label[part]) < np.count_nonzero(part) for part in (inside, ~inside)):
            usable.append(f)
    return tuple(usable)


def without(sides: LabelledSides, held_out: BoolArray) -> LabelledSides:
    """The same sides with the held-out rows counting nothing."""
    return replace(sides, coef=np.where(held_out, 0, sides.coef).astype(np.float32))


def _components(node: RowIndex, link: RowIndex, of_rows: RowIndex) -> RowIndex:
    """Connected components of nodes joined by shared links, numbered in order of their first node, looked up per row."""
    n_nodes = int(of_rows.max()) + 1
    smallest = np.arange(n_nodes)
    pairs = np.unique(np.stack([node, link]), axis=1)
    node, link = pairs[0], pairs[1]
    n_links = int(link.max()) + 1
    while True:
        through = np.full(n_links, n_nodes)
        np.minimum.at(through, link, smallest[node])
        new = smallest.copy()
        np.minimum.at(new, node, through[link])
        new = new[new]  # a node whose leader has a smaller leader follows that one
        if np.array_equal(new, smallest):
            return np.unique(smallest[of_rows], return_inverse=True)[1].astype(np.int64)
        smallest = new
