"""`steercache fit recipe`: what a paper does, carried out on a run of the cache."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from steercache.cli.completion import complete_recipes, complete_saes
from steercache.cli.fit_options import DEFAULT_SITE, FitOptions, fit_bindings, fit_options, report_fitted
from steercache.cli.options import LocalPath, parse_layers, takes
from steercache.cli.output import progress_bar


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecipeOptions(FitOptions):
    """The options of `fit recipe`."""

    recipe_name: str
    from_layer: int | None
    sae: str | None
    verdicts: Path | None
    unverified: bool
    condition: str | None


@click.command("recipe")
@click.argument("recipe_name", metavar="RECIPE", shell_complete=complete_recipes)
@partial(fit_options, site=None)
@click.option(
    "--from-layer",
    type=click.IntRange(0),
    help="Block whose direction stands at every layer, in recipes that do so; by default that with the highest AUC.",
)
@click.option(
    "--sae", shell_complete=complete_saes, help="SAE manifest, NAME-l12, or a folder, for recipes with features."
)
@click.option(
    "--verdicts",
    type=LocalPath(path_type=Path, exists=True, dir_okay=False),
    help="Review sheet with verdicts on the features of the SAE.",
)
@click.option("--unverified", is_flag=True, help="Take all picked features of the SAE; the vector says so.")
@click.option(
    "--condition",
    metavar="CONCEPT",
    help="Concept of pairs whose positive sides are steered and whose negative sides are not, in recipes with a condition.",
)
@takes(FitRecipeOptions)
def fit_recipe_command(asked: FitRecipeOptions) -> None:
    """Fit a vector as a paper does, with the use that the paper makes of it; RECIPE is a name or a manifest's file.

    \b
    steercache fit recipe textual-mean-shift --concept counting
    steercache fit recipe caa --concept joy
    steercache fit recipe refusal-ablation --concept counting --from-layer 12
    steercache fit recipe cast --concept politeness --condition cooking
    """
    from steercache.api.cache import open_cache_at

    layers, bindings = parse_layers(asked.layers), fit_bindings(asked, usual_site=DEFAULT_SITE)
    cache = open_cache_at(asked.root)
    with progress_bar("fitting", total=None, unit="vectors", quiet=asked.as_json) as bar:
        fitted = cache.fit_recipe(
            asked.recipe_name,
            concept=asked.concept,
            all_concepts=asked.all_concepts,
            query=asked.query,
            where=asked.where,
            run=asked.run,
            bindings=bindings,
            layers=layers,
            from_layer=asked.from_layer,
            name=asked.name,
            diagnose=not asked.no_diagnose,
            sae=asked.sae,
            verdicts=asked.verdicts,
            unverified=asked.unverified,
            condition=asked.condition,
            progress=bar.show,
        )
    report_fitted(cache, fitted, asked)
