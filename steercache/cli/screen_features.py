"""`steercache screen --sae`: features of SAEs by what they would do to a task, at the terminal and as JSON."""

from typing import TYPE_CHECKING, Any

import click

from steercache.cli.options import parse_layers, targets_among
from steercache.cli.output import note, print_json, print_table, progress_bar
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.api.feature_screening import ExactFeature, FeatureReport, FeatureRow, Overlap
    from steercache.cli.screen import ScreenOptions


def show_features(cache: "Cache", asked: "ScreenOptions", sae: str) -> None:
    """Screen every feature of an SAE on one benchmark, and print what was found."""
    if len(asked.words) != 2 or asked.names or asked.all_vectors:
        raise UsageError("features are screened on a benchmark", hint="steercache screen MODEL BENCHMARK --sae NAME")
    targets = None if asked.targets is None else targets_among(asked.targets)
    if targets is not None and len(targets) != 1:
        raise UsageError("features are screened on one target", hint="--target image")
    with progress_bar("reading questions", total=None, unit="", quiet=asked.as_json) as bar:
        found = cache.screen_features(
            *asked.words,
            sae=sae,
            layers=parse_layers(asked.layers) or (),
            target=None if targets is None else targets[0],
            step=asked.step,
            top=asked.top,
            concept=asked.concept,
            n=asked.n,
            exact=asked.exact,
            live=asked.live,
            seed=asked.seed,
            allow_foreign=asked.allow_foreign,
            gradients=asked.run,
            force=asked.force,
            device=asked.device,
            dtype=asked.dtype,
            task=asked.task,
            rule=asked.rule,
            form=asked.form,
            folder=asked.folder,
            progress=bar.show,
        )
    if asked.as_json:
        print_json(features_json(found, n=asked.top))
        return
    print_features(found, n=asked.top)


def features_json(found: "FeatureReport", *, n: int) -> dict[str, Any]:
    """A screening of features as JSON values."""
    screened, exact = found.screened, found.exact
    return {
        "model": screened.model,
        "task": screened.name,
        "target": screened.target,
        "step": screened.step,
        "gradient_run": screened.run_id,
        "saes": {str(layer): spec.name for layer, spec in screened.saes.items()},
        "n_samples": screened.n_samples,
        "n_left_out": screened.n_left_out,
        "base_accuracy": screened.base_accuracy,
        "n_features": screened.n_features,
        "features": screened.best(n),
        "overlaps": screened.overlaps,
        "exact": None
        if exact is None
        else {
            "n": exact.n,
            "baseline": exact.baseline,
            "n_computed": exact.n_computed,
            "live_runs": {str(layer): run for layer, run in exact.live_runs.items()},
            "rows": exact.rows,
        },
    }


def print_features(found: "FeatureReport", *, n: int) -> None:
    """All tables of a screening of features."""
    screened, exact = found.screened, found.exact
    said = f"right unsteered {screened.base_accuracy:.3f}, {screened.n_samples} questions of the search split"
    click.secho(f"{screened.model} on {screened.name}, {screened.target} tokens: {said}", bold=True)
    click.echo()
    columns = ["layer", "feature", "alpha", "margin shift", "right", "helped", "hurt", "picked for", "verified for"]
    rows = [_row(row) for row in screened.best(n)]
    print_table(columns, rows, title=f"predicted: the best {len(rows)} of {screened.n_features:,} features")
    click.echo()
    for one in screened.overlaps:
        click.echo(_overlap(one))
    if exact is not None:
        click.echo()
        columns = ["group", "layer", "feature", "alpha", "fires", "predicted", "exact", "95 %"]
        title = f"run on {exact.n} questions of the test split: right unsteered {exact.baseline:.3f}"
        print_table(columns, [_exact(row) for row in exact.rows], title=title)
        for group in ("best", "random"):
            predicted, gained = exact.gains(group)
            click.echo(f"{group}: mean gain predicted {predicted:+.3f}, exact {gained:+.3f}")
        live = ", ".join(f"{run[:SHORT_ID]}" for run in dict.fromkeys(exact.live_runs.values()))
        note(f"live features: those that fire on run {live}; {exact.n_computed:,} answers computed")
    if screened.n_left_out:
        note(f"{screened.n_left_out} questions left out: their options begin with the same token, or cannot be read")
    strength = f"{screened.step:g} median norms of the steered rows along unit decoder rows"
    run = f"{screened.gradients.document.name} {screened.run_id[:SHORT_ID]}"
    note(f"strength: {strength}; negative: subtracted. Predictions are straight lines; gradients: {run}")


def _row(row: "FeatureRow") -> list[Any]:
    return [
        row.layer,
        row.feature,
        f"{row.alpha:+.3g}",
        f"{row.shift:+.3f}",
        f"{row.accuracy:.3f} ({row.gain:+.3f})",
        row.helped,
        row.hurt,
        ", ".join(row.picked) or "-",
        ", ".join(row.verified) or "-",
    ]


def _exact(row: "ExactFeature") -> list[Any]:
    return [
        row.group,
        row.layer,
        row.feature,
        f"{row.alpha:+.3g}",
        f"{row.rate:.2%}",
        f"{row.predicted:.3f} ({row.predicted_gain:+.3f})",
        f"{row.exact:.3f} ({row.exact_gain:+.3f})",
        f"{row.low:+.3f} to {row.high:+.3f}",
    ]


def _overlap(one: "Overlap") -> str:
    who = "picked by sentences" if one.chosen_by == "sentences" else "with the verdict yes"
    if one.p is None:
        return f"no feature of these SAEs is {who} in this cache"
    return f"{one.n_common} of the best {one.k} are among the {one.n_marked} {who} ({one.share:.0%}); by chance p {one.p:.3g}"
