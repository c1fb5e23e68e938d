"""`steercache fit`: vectors for every layer from the cache, without a model."""

from functools import partial
from typing import TYPE_CHECKING

import click

from steercache.cli.fit_options import (
    DEFAULT_SITE,
    HEADS,
    FitOptions,
    fit_bindings,
    fit_options,
    recipe_option,
    report_fitted,
    seed_option,
)
from steercache.cli.fit_recipe import fit_recipe_command
from steercache.cli.fit_sae import fit_sae_command
from steercache.cli.options import json_option, takes
from steercache.cli.options import parse_layers as parse_layers
from steercache.cli.output import progress_bar
from steercache.core.errors import UsageError

if TYPE_CHECKING:
    from steercache.api.fitting import MethodName


@click.group(invoke_without_command=True, no_args_is_help=True)
@click.option("--list", "as_list", is_flag=True, help="List methods and recipes with formula, source and command.")
@json_option
@click.pass_context
def fit(context: click.Context, as_list: bool, as_json: bool) -> None:
    """Fit steering vectors for every layer from the cache; no model is loaded.

    \b
    steercache fit mean-shift --all-concepts
    steercache fit recipe textual-mean-shift --concept counting
    steercache fit --list
    """
    if as_list:
        from steercache.cli.fit_list import list_methods

        list_methods(as_json=as_json)
        context.exit()
    if context.invoked_subcommand is None:
        raise UsageError("no method was named", hint="steercache fit --list")


fit.add_command(fit_sae_command)
fit.add_command(fit_recipe_command)


@fit.command("mean-shift")
@fit_options
@recipe_option
@takes(FitOptions)
def mean_shift_command(asked: FitOptions) -> None:
    """Fit the mean of the concept's rows minus the mean of the other rows.

    \b
    steercache fit mean-shift --concept counting
    steercache fit mean-shift --all-concepts --recipe paper
    """
    _run("mean_shift", asked)


@fit.command("probe")
@fit_options
@recipe_option
@seed_option("the SGD of the recipe `paper`")
@takes(FitOptions)
def probe_command(asked: FitOptions) -> None:
    """Fit the direction of a logistic regression, of unit norm.

    \b
    steercache fit probe --concept counting
    steercache fit probe --concept counting --recipe paper --seed 1
    """
    _run("linear_probe", asked)


@fit.command("pca-diff")
@fit_options
@takes(FitOptions)
def pca_diff_command(asked: FitOptions) -> None:
    """Fit the first principal component of the differences within pairs, their mean taken away (repeng).

    \b
    steercache fit pca-diff --concept counting
    """
    _run("pca_diff", asked)


@fit.command("pca-center")
@fit_options
@takes(FitOptions)
def pca_center_command(asked: FitOptions) -> None:
    """Fit the first principal component of rows around the middle of their pair (repeng, steering-vectors).

    \b
    steercache fit pca-center --concept counting
    """
    _run("pca_center", asked)


@fit.command("lat")
@fit_options
@seed_option("the order within pairs")
@takes(FitOptions)
def lat_command(asked: FitOptions) -> None:
    """Fit a reading vector: the first principal component of differences with random signs (arXiv 2310.01405).

    \b
    steercache fit lat --concept counting --seed 1
    """
    _run("lat", asked)


@fit.command("lda")
@fit_options
@takes(FitOptions)
def lda_command(asked: FitOptions) -> None:
    """Fit a linear discriminant: the difference of means, whitened by the covariance inside the sides.

    \b
    steercache fit lda --concept counting
    """
    _run("lda", asked)


@fit.command("mass-mean")
@fit_options
@takes(FitOptions)
def mass_mean_command(asked: FitOptions) -> None:
    """Fit a mass-mean probe: the difference of means times the pseudo-inverse of the covariance (arXiv 2310.06824).

    \b
    steercache fit mass-mean --concept counting
    """
    _run("mass_mean", asked)


@fit.command("unit-shift")
@fit_options
@takes(FitOptions)
def unit_shift_command(asked: FitOptions) -> None:
    """Fit the difference of the sides' mean directions, rows at length 1 (arXiv 2510.26243, angular steering).

    \b
    steercache fit unit-shift --concept counting
    """
    _run("unit_shift", asked)


@fit.command("head-probes")
@partial(fit_options, site=HEADS)
@click.option("--top", type=click.IntRange(1), default=48, show_default=True, help="Heads to keep.")
@takes(FitOptions)
def head_probes_command(asked: FitOptions) -> None:
    """Fit directions at the attention heads that tell the sides apart best (inference-time intervention).

    \b
    steercache fit head-probes --concept counting --top 48
    """
    _run("head_probes", asked)


def _run(method: "MethodName", asked: FitOptions) -> None:
    from steercache.api.cache import open_cache_at

    if asked.name and asked.all_concepts:
        raise UsageError("--name goes with one concept", hint="leave it out: each vector is named after its concept")
    if asked.concept and asked.all_concepts:
        raise UsageError("--concept and --all-concepts exclude each other")
    layers = parse_layers(asked.layers)
    bindings = fit_bindings(asked, usual_site=HEADS if method == "head_probes" else DEFAULT_SITE)
    cache = open_cache_at(asked.root)
    with progress_bar("fitting", total=None, unit="vectors", quiet=asked.as_json) as bar:
        fitted = cache.fit(
            method,
            concept=asked.concept,
            all_concepts=asked.all_concepts,
            query=asked.query,
            where=asked.where,
            run=asked.run,
            site=asked.site,
            bindings=bindings,
            recipe=asked.recipe,
            layers=layers,
            name=asked.name,
            seed=asked.seed,
            top=asked.top,
            diagnose=not asked.no_diagnose,
            progress=bar.show,
        )
    report_fitted(cache, fitted, asked)
