"""Every way to make a vector from rows: its formula, where it comes from, the command, and the test that checks it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from steercache.core.vectors import SteeringVector
from steercache.fit import heads, pca, probe, shift, unit_shift, whitened
from steercache.fit.fitted import LayerFormula


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method. In formulas m1 and m0 are the means of the concept's and the other rows, and d_i the difference of pair i.

    `length` is "unit", "difference" (as long as the difference of means), "deviation" (of the rows along it) or "chord" (from
    one direction to another, at most 2). `fit` is the fitting function, None for one that needs more than rows (an SAE).
    `formula_of` gives the formula by layer with a seed, for fits without some rows, of which `n_draws` are made to measure
    stability; None where the method has a way of its own. `options` are the parameters of `fit` that a provenance keeps under
    the same names.
    """

    name: str
    formula: str
    source: str
    command: str
    tested_by: str
    length: str
    fit: Callable[..., SteeringVector] | None = None
    formula_of: Callable[[int], LayerFormula] | None = None
    n_draws: int = 20
    options: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `steercache fit --list --json` shows it."""
        names = ("name", "formula", "source", "length", "command", "tested_by")
        return {name: getattr(self, name) for name in names}


_ALL: Final = (
    Method(
        name=shift.METHOD,
        formula="v = m1 - m0; of pairs, the mean of d_i",
        source="arXiv 2505.14071; of pairs arXiv 2312.06681 (CAA)",
        command="steercache fit mean-shift --concept counting",
        tested_by="tests/fit/test_from_cache.py::test_mean_shift_equals_that_of_a_fresh_forward_pass_at_every_layer",
        length="difference",
        fit=shift.mean_shift,
        n_draws=200,
    ),
    Method(
        name=probe.METHOD,
        formula="v ~ w of a logistic regression of the label on standardised rows, L2 penalty chosen on held-out rows",
        source="arXiv 2505.14071 (its SGD: recipe paper)",
        command="steercache fit probe --concept counting",
        tested_by="tests/fit/test_from_cache.py::test_the_probe_equals_scikit_learns_on_a_fresh_forward_pass",
        length="unit",
        fit=probe.linear_probe,
        options=("seed",),
    ),
    Method(
        name=pca.PCA_DIFF,
        formula="v = first eigenvector of sum_i (d_i - mean d)(d_i - mean d)^T, sign of most pairs",
        source="repeng 0.4, pca_diff",
        command="steercache fit pca-diff --concept counting",
        tested_by="tests/peers/test_pca.py::test_pca_of_pairs_at_the_last_token_equals_repengs_and_that_of_steering_vectors",
        length="unit",
        fit=pca.pca_diff,
        formula_of=lambda seed: pca.pca_formula(pca.PCA_DIFF),
    ),
    Method(
        name=pca.PCA_CENTER,
        formula="v = first eigenvector of sum_i d_i d_i^T, sign of most pairs",
        source="repeng 0.4, pca_center; steering-vectors 0.12, pca_aggregator",
        command="steercache fit pca-center --concept counting",
        tested_by="tests/peers/test_pca.py::test_pca_of_pairs_at_the_last_token_equals_repengs_and_that_of_steering_vectors",
        length="unit",
        fit=pca.pca_center,
        formula_of=lambda seed: pca.pca_formula(pca.PCA_CENTER),
    ),
    Method(
        name=pca.LAT,
        formula="v = first eigenvector of the covariance of e_i d_i, e_i = 1 or -1 by chance; sign of most pairs",
        source="arXiv 2310.01405 (RepE), linear artificial tomography",
        command="steercache fit lat --concept counting --seed 1",
        tested_by="tests/fit/test_pca.py::test_lat_is_the_reading_vector_of_pairs_in_the_order_that_the_seed_drew",
        length="unit",
        fit=pca.lat,
        formula_of=lambda seed: pca.pca_formula(pca.LAT, seed=seed),
        options=("seed",),
    ),
    Method(
        name=whitened.LDA,
        formula="v ~ ((1 - s) S + s tr(S)/d I)^-1 (m1 - m0), S the covariance inside the sides, s by Ledoit and Wolf",
        source="Fisher 1936; Ledoit and Wolf 2004",
        command="steercache fit lda --concept counting",
        tested_by="tests/fit/test_whitened.py::test_lda_is_scikit_learns_with_the_shrinkage_of_ledoit_and_wolf",
        length="unit",
        fit=whitened.lda,
        formula_of=lambda seed: whitened.whitened_formula(whitened.LDA),
    ),
    Method(
        name=whitened.MASS_MEAN,
        formula="v ~ S^+ (m1 - m0), S the covariance inside the sides, eigenvalues up to 0.001 left out",
        source="arXiv 2310.06824 (Marks and Tegmark)",
        command="steercache fit mass-mean --concept counting",
        tested_by="tests/fit/test_whitened.py::test_the_mass_mean_probe_is_that_of_marks_and_tegmark",
        length="unit",
        fit=whitened.mass_mean,
        formula_of=lambda seed: whitened.whitened_formula(whitened.MASS_MEAN),
    ),
    Method(
        name=heads.METHOD,
        formula="v = s u at the heads with the best probes, 0 at the others; u ~ m1 - m0 of a head, s the deviation along u",
        source="arXiv 2306.03341 (inference-time intervention)",
        command="steercache fit head-probes --concept counting --top 48",
        tested_by="tests/fit/test_heads.py::test_the_vector_is_that_of_honest_llama_at_the_heads_with_the_best_probes",
        length="deviation",
        fit=heads.head_probes,
        n_draws=0,
        options=("top", "n_heads"),
    ),
    Method(
        name=unit_shift.METHOD,
        formula="v = n1 - n0, n the mean of a side's rows, each at length 1, brought to length 1",
        source="arXiv 2510.26243 (angular steering), its candidate directions",
        command="steercache fit unit-shift --concept counting",
        tested_by="tests/fit/test_unit_shift.py::test_the_plane_is_that_of_the_authors_candidates",
        length="chord",
        fit=unit_shift.unit_shift,
        formula_of=lambda seed: unit_shift.unit_formula,
    ),
    Method(
        name="sae",
        formula="v ~ mean of the decoder rows of the features that fire on the concept's rows and are verified",
        source="arXiv 2505.14071",
        command="steercache fit sae --concept counting --sae smollm2-135m-l15 --unverified",
        tested_by="tests/sae/test_vector.py::test_planted_features_are_found_and_the_vector_is_their_mean",
        length="unit",
    ),
)

CATALOGUE: Final[dict[str, Method]] = {one.name: one for one in _ALL}
METHODS: Final[dict[str, Callable[..., SteeringVector]]] = {one.name: one.fit for one in _ALL if one.fit is not None}
"""The fitting functions by the name that a vector's `method` and its provenance keep."""
