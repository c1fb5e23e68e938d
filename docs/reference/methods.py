"""The page about methods: what `steercache fit --list` lists, and which test checks each formula."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from steercache.api.recipes import recipe_facts
from steercache.fit.catalogue import CATALOGUE

INTRODUCTION = """
`steercache fit --list` prints this page's tables; `--json` gives them to programs.

m1 and m0 are the means of the rows with the concept and of the other rows, d_i the difference of the two sides within pair i.
Pairs are contrastive pairs (a selection with a column `pair`, such as `contrast_last`); where a selection has none, each
sentence that holds rows of both sides is one: its anchors against its controls. Sides with weights and pairs count
as [your own sentences](how-to/own-sentences.md) says.

Length *difference* means that a vector is as long as the difference of means, so that strength 1 moves a row by it; *unit*
that it has length 1, so that strengths are lengths, or better multiples of the rows' norm (`alpha_unit="resid_norm"`);
*deviation* that it is as long as the standard deviation of the rows along it, *chord* that it leads from one direction to
another, and says nothing of the rows' length.
"""
RECIPES = """
A recipe is a method with its rows and its use: a manifest of kind `recipe`. `steercache fit recipe NAME` (`Cache.fit_recipe`)
fits it on your run and saves the vector with the use, which `steercache.steered(model, vector)` applies; layers and strengths
that a recipe leaves open are given there.
"""
CONDITIONS = """
Conditional steering (CAST, arXiv 2409.05907) steers prompts whose hidden state lies along a condition vector. The recipe `cast`
fits both: the vector on the pairs of one concept, the condition on those of another, whose positive sides are prompts to steer.
The use of the vector has the condition as its target, which names the condition vector of the cache:

```python
(vector,) = cache.fit_recipe("cast", concept="politeness", condition="cooking")
on = steercache.steered(model, vector, layer=12, alpha=8, target=cache.target(vector.use.target))
```

In a sweep the same text is one of `targets`. The pairs ship: `steercache build tiny-recipes` traces them with the smallest
model.

`steercache.fit.find_condition(sel, vector)` finds layer, threshold and side with the highest F1 over labelled prompts (one row
each, such as `contrast_last`); `.target` is the condition as a target in SQL: all tokens of prompts whose last token meets
it. The condition vector of the paper is `pca_center`. Its package compares with cos(h, tanh(P h)), P the projection on the
vector (`similarity="cast"` does the same), and by default the mean over the prompt's tokens; a target compares the cosine of
the last token. Checked by `tests/fit/test_condition.py::test_the_condition_is_the_point_that_the_authors_search_finds`.
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
activations; whether answers move is measured with `steercache eval`, and `steercache query moved_wrong_way` shows the share of
samples whose answer margin fell.
"""


def page_text(table: Any) -> str:
    """The page; `table` makes a Markdown table of column names and rows."""
    columns = ["method", "formula", "length", "source", "command", "checked by"]
    rows = [
        [f"`{one.name}`", f"`{one.formula}`", one.length, one.source, f"`{one.command}`", f"`{one.tested_by}`"]
        for one in CATALOGUE.values()
    ]
    names = ["recipe", "formula", "method", "use", "source", "command", "checked by"]
    recipes = [
        [
            f"`{one['name']}`: {one['summary']}",
            f"`{one['formula']}`",
            f"`{one['method']}`",
            one["use"],
            one["source"],
            f"`{one['command']}`",
            f"`{one['tested_by']}`",
        ]
        for one in recipe_facts()
    ]
    others = [f"- `{one['name']}`: {sentence}" for one in recipe_facts() for sentence in one["differs"]]
    return "\n\n".join(
        [
            INTRODUCTION.strip(),
            table(columns, rows),
            "## Recipes of papers",
            RECIPES.strip(),
            table(names, recipes),
            "What the papers or their code do otherwise:",
            "\n".join(others),
            "## Conditions",
            CONDITIONS.strip(),
            "## What a fit measures",
            DIAGNOSTICS.strip(),
        ]
    )
