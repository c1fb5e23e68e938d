"""`steercache sae train`: an SAE from cached rows."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from steercache.cli.completion import complete_runs
from steercache.cli.options import LocalPath, json_option, root_option, takes
from steercache.cli.options import words as parse_words
from steercache.cli.output import next_commands, note, print_json, print_table, progress_bar

LITTLE = 0.5  # of the variance, below which a fit warns, too


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeTrainOptions:
    """What is trained, as typed."""

    run: str
    layer: int
    out: Path
    width: str
    architecture: Literal["batchtopk", "topk", "jumprelu", "standard"]
    k: float
    n_rows: int | None
    batch_size: int
    lr: float
    sparsity_coefficient: float | None
    max_norm_ratio: float
    held_out: float
    kinds: str
    bfloat16: bool
    seed: int
    device: str
    root: Path
    as_json: bool


@click.command("train")
@click.option("--run", required=True, shell_complete=complete_runs, help="Run by name, id or prefix.")
@click.option("--layer", required=True, type=click.IntRange(0), help="Zero-based block whose output is encoded.")
@click.option(
    "--out", required=True, type=LocalPath(path_type=Path, file_okay=False), help="Folder of the SAE; new, or resumed."
)
@click.option("--width", default="8x", show_default=True, help="Number of features, or a multiple of the hidden size.")
@click.option(
    "--architecture",
    type=click.Choice(["batchtopk", "topk", "jumprelu", "standard"]),
    default="batchtopk",
    show_default=True,
    help="Of sae-lens.",
)
@click.option(
    "--k",
    type=float,
    default=32,
    show_default=True,
    help="Active features per row: exact, mean or target; not of standard.",
)
@click.option("--rows", "n_rows", type=click.IntRange(1), help="Rows read in all.  [default: each row once]")
@click.option("--batch-size", type=click.IntRange(1), default=1024, show_default=True, help="Rows of one step.")
@click.option("--lr", type=float, default=3e-4, show_default=True, help="Learning rate of Adam.")
@click.option(
    "--sparsity-coefficient",
    type=float,
    help="L1 (standard) or L0 (jumprelu) coefficient.  [default: that of sae-lens]",
)
@click.option(
    "--max-norm-ratio",
    type=float,
    default=10.0,
    show_default=True,
    help="Leave out rows longer than this multiple of the median norm; 0 keeps all.",
)
@click.option(
    "--held-out", type=float, default=0.05, show_default=True, help="Share of the samples kept for the health table."
)
@click.option("--kinds", default="text,image", show_default=True, help="Kinds of tokens: text, image, special.")
@click.option("--bfloat16", is_flag=True, help="Matrix products in bfloat16; weights stay in float32.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the start, the order and the held-out samples.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1.")
@root_option
@json_option
@takes(SaeTrainOptions)
def train_command(asked: SaeTrainOptions) -> None:
    """Train a sparse autoencoder on the cached rows of one layer; no model is loaded.

    Rows come shuffled over the whole run, without position 0. Safe to kill: the same command resumes, to the same result.

    \b
    steercache sae train --run smollm2-concepts --layer 15 --rows 200000 --out saes/mine
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.sae_training import TrainingSettings

    settings = TrainingSettings(
        width=asked.width,
        architecture=asked.architecture,
        k=asked.k,
        n_rows=asked.n_rows,
        batch_size=asked.batch_size,
        lr=asked.lr,
        sparsity_coefficient=asked.sparsity_coefficient,
        max_norm_ratio=asked.max_norm_ratio or None,
        held_out=asked.held_out,
        bfloat16=asked.bfloat16,
        seed=asked.seed,
    )
    cache = open_cache_at(asked.root)
    with progress_bar("training", total=None, unit="rows", quiet=asked.as_json) as bar:
        trained = cache.train_sae(
            asked.run,
            layer=asked.layer,
            out=asked.out,
            settings=settings,
            kinds=parse_words(asked.kinds),
            device=asked.device,
            progress=bar.show,
        )
    health = None if trained.health is None else asdict(trained.health)
    spec = trained.sae.spec
    if asked.as_json:
        print_json({"folder": str(trained.folder), "sae": spec.record(), "health": health})
        return
    if trained.n_left_out:
        note(f"{trained.n_left_out:,} rows were left out: longer than {asked.max_norm_ratio:g} times the median norm")
    if trained.health is not None:
        n_features = spec.d_sae
        columns = ["held-out rows", "explained variance", "cosine", "L0", f"dead of {n_features:,}", "dense"]
        row = trained.health
        print_table(columns, [[row.n_rows, row.explained_variance, row.cosine, row.l0_mean, row.n_dead, row.n_dense]])
        if (row.explained_variance or 0) < LITTLE:
            note(
                "it explains little of rows that it was not trained on: train on more different texts, or for more rows"
            )
    note(f"the SAE ({spec.architecture}, {spec.d_in} to {spec.d_sae:,}) is in {trained.folder}")
    next_commands(shlex.join(["steercache", "sae", "encode", str(trained.folder), "--run", asked.run]))
