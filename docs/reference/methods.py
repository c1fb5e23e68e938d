"""The page about methods: what `steercache fit --list` lists, and which test checks each formula."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from steercache.fit.catalogue import CATALOGUE

INTRODUCTION = """
`steercache fit --list` prints this page's tables; `--json` gives them to programs.

m1 and m0 are the means of the rows with the concept and of the other rows, d_i the difference of the two sides within pair i.
Pairs are contrastive pairs (a selection with a column `pair`, such as `contrast_last`); where a selection has none, each
sentence that holds rows of both sides is one: its anchors against its controls. Sides with weights and pairs count
as [your own sentences](how-to/own-sentences.md) says.

Length *difference* means that a vector is as long as the difference of means, so that strength 1 moves a row by it; *unit*
that it has length 1, so that strengths are lengths, or better multiples of the rows' norm (`alpha_unit="resid_norm"`).
"""
DIAGNOSTICS = """
Every fit measures, per layer, on held-out sentences or pairs (`steercache vectors show NAME`; `--no-diagnose` skips it):

| number | formula | source |
|---|---|---|
| AUC | share of (concept row, other row) with the higher projection on the concept row | Mann and Whitney |
| d' | (mean of one side - mean of the other) / sqrt of the mean variance, of projections | Green and Swets 1966 |
| cos of differences | mean and standard deviation over pairs of cos(d_i, v), v fitted without the pair | arXiv 2505.22637 |
| wrong way | share of pairs with d_i . v < 0, v fitted without the pair | after arXiv 2407.12404 |
| stability | mean cosine to fits on sentences drawn again | bootstrap |

Vectors steer more reliably where d' and the cosine are high, and *wrong way* low (arXiv 2505.22637). They are measured on
activations; whether answers move is measured with `steercache eval`.
"""


def page_text(table: Any) -> str:
    """The page; `table` makes a Markdown table of column names and rows."""
    columns = ["method", "formula", "length", "source", "command", "checked by"]
    rows = [
        [f"`{one.name}`", f"`{one.formula}`", one.length, one.source, f"`{one.command}`", f"`{one.tested_by}`"]
        for one in CATALOGUE.values()
    ]
    return "\n\n".join([INTRODUCTION.strip(), table(columns, rows), "## What a fit measures", DIAGNOSTICS.strip()])
