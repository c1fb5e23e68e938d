"""`steercache sae health`: how well an SAE describes the rows of a run, by kind of row."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steercache.cli.completion import complete_models, complete_runs, complete_saes
from steercache.cli.options import json_option, root_option, takes
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from steercache.sae.health import Health


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthOptions:
    """Options of `steercache sae health`."""

    sae: str
    run: str | None
    layer: int | None
    model: str | None
    texts: int
    device: str
    allow_foreign: bool
    root: Path
    as_json: bool


@click.command("health")
@click.argument("sae", shell_complete=complete_saes)
@click.option("--run", shell_complete=complete_runs, help="Run by name, id or prefix.  [default: the newest text run]")
@click.option("--layer", type=click.IntRange(0), help="Block, for an SAE manifest that lists several.")
@click.option(
    "--model",
    shell_complete=complete_models,
    help="Model of the run; with it, the loss recovered is measured too (text runs only).",
)
@click.option(
    "--texts",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Number of texts of the run on which the loss is measured.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps or auto.")
@click.option("--allow-foreign", is_flag=True, help="Take an SAE of another model or BOS convention, with a warning.")
@root_option
@json_option
@takes(HealthOptions)
def health_command(asked: HealthOptions) -> None:
    """Measure how well SAE describes the rows of a run, separately for text, image and special tokens and first positions.

    Explained variance is 1 for a perfect SAE and 0 for one that returns the mean row. The result is stored and read again.

    \b
    steercache sae health my-sae --run my-run
    steercache sae health my-sae --run my-run --model smollm2-135m
    """
    from steercache.api.cache import open_cache_at

    with progress_bar("measuring", total=None, unit="", quiet=asked.as_json) as bar:
        found = open_cache_at(asked.root).sae_health(
            asked.sae,
            run=asked.run,
            model=asked.model,
            layer=asked.layer,
            n_texts=asked.texts,
            device=asked.device,
            allow_foreign=asked.allow_foreign,
            progress=bar.show,
        )
    if asked.as_json:
        loss = found.loss
        shares = {} if loss is None else {"recovered": loss.recovered, "recovered_from_mean": loss.recovered_from_mean}
        print_json(asdict(found) | ({"loss": asdict(loss) | shares} if loss is not None else {}))
        return
    _show(found, asked)


def _show(found: "Health", asked: HealthOptions) -> None:
    columns = ["rows", "n", "explained", "cosine", "MSE", "L0 mean", "L0 median", "dead", "dense"]
    rows = [
        [
            one.kind,
            f"{one.n_rows:,}",
            _number(one.explained_variance, "{:.3f}"),
            _number(one.cosine, "{:.3f}"),
            _number(one.mse, "{:.3g}"),
            _number(one.l0_mean, "{:.1f}"),
            _number(one.l0_median, "{:g}"),
            f"{one.n_dead:,}",
            f"{one.n_dense:,}",
        ]
        for one in found.kinds
    ]
    print_table(columns, rows, title=f"{found.sae}, {found.n_features:,} features, {found.site} {found.layer}")
    n_bad = found.kinds[0].n_non_finite
    if n_bad:
        note(f"{n_bad:,} rows hold infinities or NaN and are left out")
    if found.lossy:
        note("the rows have lost precision (int8)")
    if found.loss is None:
        given = {"--run": asked.run, "--layer": asked.layer}
        words = [str(word) for option, value in given.items() if value is not None for word in (option, value)]
        next_commands(f"{shlex.join(['steercache', 'sae', 'health', asked.sae, *words])} --model MODEL")
        return
    loss = found.loss
    print_table(
        ["layer's output", "cross-entropy"],
        [[name, f"{getattr(loss, name):.4f}"] for name in ("clean", "reconstructed", "mean", "zero")],
        title=f"next token, {loss.n_tokens:,} tokens of {loss.n_texts:,} texts",
    )
    click.echo(
        f"loss recovered: {_number(loss.recovered, '{:.3f}')} from zero ablation,"
        f" {_number(loss.recovered_from_mean, '{:.3f}')} from ablation by the mean"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
