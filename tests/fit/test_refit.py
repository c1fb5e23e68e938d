"""A vector carries enough to be fitted again, byte for byte."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steercache.core.errors import UsageError
from steercache.core.selection import QueryRecord, Selection
from steercache.fit import METHODS, mean_shift, refit
from steercache.fit.recipes import differences
from tests.fit.arrays import ArraySource
from tests.fit.planted import planted

TEXT = "select * from tokens where concept = $concept and layer > $n"


class Answering:
    """A session that answers one query text with one selection and remembers how it was asked."""

    def __init__(self, sel: Selection) -> None:
        self.sel, self.asked = sel, []

    def select_isolated(
        self,
        name_or_sql: str,
        /,
        *,
        run: str | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
        where: str | None = None,
    ) -> Selection:
        given = dict(bindings or {})
        self.asked.append((name_or_sql, run, site, given))
        return replace(self.sel, query=QueryRecord(name=None, text=name_or_sql, bindings=given), concept=None)


def fitted_on() -> Selection:
    query = QueryRecord(name="anchor_vs_control", text=TEXT, bindings={"concept": "counting", "n": np.int64(3)})
    return planted(20, query=query)[0]


@pytest.mark.parametrize(
    ("method", "recipe"),
    [*((method, "default") for method in METHODS), ("mean_shift", "paper"), ("linear_probe", "paper")],
)
def test_fitting_again_from_provenance_gives_the_same_vector(method: str, recipe: str) -> None:
    sel = fitted_on()
    options = {"seed": 5} if (method, recipe) == ("linear_probe", "paper") else {}
    if method == "head_probes":
        sel, options = replace(sel, site="head_out"), {"n_heads": 1, "top": 1}
    vector = METHODS[method](sel, recipe=recipe, layers=[1], name="mine", **options)
    session = Answering(sel)
    again = refit(vector, session)
    assert session.asked == [(TEXT, None, sel.site, {"concept": "counting", "n": 3})]
    assert again.values.tobytes() == vector.values.tobytes()
    assert (again.vector_id, again.name) == (vector.vector_id, "mine")
    assert differences(vector, again) == []


def test_a_run_that_was_bound_is_bound_again_and_another_run_is_refused() -> None:
    query = QueryRecord(name="anchors", text=TEXT, bindings={"run": "run-0"})
    sel = planted(5, query=query)[0]
    session = Answering(sel)
    vector = mean_shift(sel)
    assert refit(vector, session).vector_id == vector.vector_id
    assert session.asked == [(TEXT, "run-0", "resid_post", {})]
    elsewhere = ArraySource(arrays=sel.source.arrays, run_id="run-1")  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="run-1"):
        refit(vector, Answering(replace(sel, source=elsewhere)))


def test_labels_mended_since_show_as_other_rows() -> None:
    sel = fitted_on()
    vector = mean_shift(sel)
    label = sel.label.copy()  # type: ignore[union-attr]
    label[:5] = 1
    again = refit(vector, Answering(replace(sel, label=label)))
    assert [d.partition(":")[0] for d in differences(vector, again)] == ["values", "rows"]


def test_vectors_from_elsewhere_cannot_be_fitted_again() -> None:
    sel = fitted_on()
    for odd in (replace(mean_shift(sel), method="sae"), replace(mean_shift(sel), provenance={"source": "a.gguf"})):
        with pytest.raises(UsageError, match="cannot be fitted again"):
            refit(odd, Answering(sel))


def test_a_binding_that_json_cannot_hold_is_refused() -> None:
    sel = planted(5, query=QueryRecord(name=None, text=TEXT, bindings={"when": object()}))[0]
    with pytest.raises(UsageError, match="cannot be kept"):
        mean_shift(sel)
