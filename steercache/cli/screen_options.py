"""Options of `steercache screen` for features of an SAE."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def feature_options(command: F) -> F:
    """`--sae`, `--step`, `--concept`, `--exact` and `--live`."""
    for option in (
        click.option(
            "--live", help="With --exact: run whose rows say which features are live; it is encoded if need be."
        ),
        click.option(
            "--exact",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="With --sae: number of best features, and of random live ones, that are run on the test split.",
        ),
        click.option(
            "--concept", help="With --sae: mark the features that were chosen for this concept; by default for any."
        ),
        click.option(
            "--step",
            type=click.FloatRange(0, min_open=True),
            default=0.25,
            show_default=True,
            help="With --sae: strength along unit decoder rows, in median norms of the steered rows.",
        ),
        click.option("--sae", help="Predict every feature of this SAE: a manifest, NAME-l12, or a folder of sae-lens."),
    ):
        command = option(command)
    return command
