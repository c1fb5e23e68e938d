"""Selection by a sparse probe: the features that an L1-penalised logistic regression needs to tell anchors from controls."""

import warnings
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import MissingExtraError
from steercache.sae.selection import (
    MIN_SENTENCES,
    N_KEEP,
    Candidate,
    LabelledActs,
    Selector,
    check_controls,
    firing_rate,
    paper,
    rank_candidates,
)

STRENGTHS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # inverse of the penalty; ties go to the strongest penalty
N_FOLDS: Final = 5
UNCHOSEN: Final = 1.0  # where there are too few sentences to hold any out
_BIAS: Final = 10.0  # the value of the intercept's own column: large, so that its penalty is next to nothing


def sparse_probe(
    rows: LabelledActs, *, n_keep: int = N_KEEP, min_sentences: int = MIN_SENTENCES
) -> tuple[Candidate, ...]:
    """Features with a positive weight in an L1 logistic regression of anchor (1) against control (0) rows.

    Every feature is divided by its largest activation, both labels weigh the same in total, and the penalty is the one with the
    least log loss on held-out sentences (5 folds; a sentence is never on both sides). The score is the weight. Of features that
    fire together only some get one: what is not picked may respond to the concept too.

    Raises:
        UsageError: there are no control rows. MissingExtraError: scikit-learn is not installed.
    """
    check_controls(rows)
    hits = rows.sentence_max().firing_counts()
    columns = np.flatnonzero(hits)
    weights = np.zeros(rows.acts.n_features)
    strength = UNCHOSEN
    if len(columns):
        matrix = _scaled(rows, columns)
        fold = folds(rows.sentence)
        strength = _strength(matrix, rows, fold)
        weights[columns] = _solve(matrix, rows.is_anchor, strength)[0]
    found = np.flatnonzero(weights > 0)
    failed = {
        f: f"fires at the anchors of {hits[f]} sentence{'' if hits[f] == 1 else 's'}; needs {min_sentences}"
        for f in found.tolist()
        if hits[f] < min_sentences
    }
    by = f"weight (C = {strength:g})"
    return rank_candidates(rows, found, score=weights, hits=hits, failed=failed, n_keep=n_keep, by=by)


SELECTIONS: Final[dict[str, Selector]] = {"paper": paper, "firing_rate": firing_rate, "sparse_probe": sparse_probe}
"""The selection methods by name."""


def folds(sentence: npt.NDArray[np.int64], n_folds: int = N_FOLDS) -> npt.NDArray[np.int64]:
    """A fold per row, shape (n,): the k-th sentence by number is in fold k modulo `n_folds`; no chance in it."""
    _, number = np.unique(sentence, return_inverse=True)
    fold: npt.NDArray[np.int64] = (number % n_folds).astype(np.int64)
    return fold


def _scaled(rows: LabelledActs, columns: npt.NDArray[np.int64]) -> Any:
    """The rows as a sparse matrix (n, c) of the features `columns`, each divided by its largest activation."""
    sparse = _sklearn()[2]
    acts = rows.acts
    matrix = sparse.csr_matrix((acts.values, acts.indices, acts.indptr), shape=(acts.n_rows, acts.n_features))
    matrix = matrix[:, columns].astype(np.float64)
    largest = matrix.max(axis=0).toarray().ravel()
    return matrix @ sparse.diags(1 / np.where(largest > 0, largest, 1.0))


def _strength(matrix: Any, rows: LabelledActs, fold: npt.NDArray[np.int64]) -> float:
    """The inverse penalty with the least held-out log loss, the mean of both labels' means: the first minimum from strong to
    weak."""
    label = rows.is_anchor
    usable = [
        f
        for f in range(int(fold.max()) + 1)
        if all(label[s].any() and not label[s].all() for s in (fold == f, fold != f))
    ]
    if len(usable) < 2:
        return UNCHOSEN
    best, least = STRENGTHS[0], np.inf
    for strength in STRENGTHS:
        loss = 0.0
        for f in usable:
            inside = fold == f
            weights, intercept = _solve(matrix[~inside], label[~inside], strength)
            logits = matrix[inside] @ weights + intercept
            each = np.logaddexp(0, np.where(label[inside], -logits, logits))
            loss += float(each[label[inside]].mean() + each[~label[inside]].mean()) / 2
        if loss > least + 1e-9:
            break  # the weaker the penalty, the longer the fit
        if loss < least - 1e-9:  # under the strongest penalties every weight is zero, and the loss the same
            best, least = strength, loss
    return best


def _solve(matrix: Any, label: npt.NDArray[np.bool_], strength: float) -> tuple[npt.NDArray[np.float64], float]:
    linear_model, convergence_warning, _ = _sklearn()
    model = linear_model.LogisticRegression(
        C=strength,
        l1_ratio=1.0,
        solver="liblinear",
        class_weight="balanced",
        intercept_scaling=_BIAS,
        tol=1e-5,
        max_iter=2000,
        random_state=0,  # of the order of coordinates; the optimum does not depend on it
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", convergence_warning)
        model.fit(matrix, label)
    weights: npt.NDArray[np.float64] = model.coef_[0].astype(np.float64)
    return weights, float(model.intercept_[0])


def _sklearn() -> tuple[Any, Any, Any]:
    try:
        from scipy import sparse
        from sklearn import linear_model
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise MissingExtraError(
            "a sparse probe needs scikit-learn, which is not installed", hint="pip install 'steercache[fit]'"
        ) from error
    return linear_model, ConvergenceWarning, sparse
