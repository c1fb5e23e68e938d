"""`steercache sae`: encode a run's rows as features of a sparse autoencoder, list and remove what is encoded."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steercache.cli.completion import complete_encoded_saes, complete_runs, complete_saes
from steercache.cli.options import RenamedOption, engine_options, json_option, parse_layers, root_option, takes
from steercache.cli.output import human_bytes, next_commands, note, print_json, progress_bar
from steercache.cli.sae_health import health_command
from steercache.cli.sae_list import list_command, plain_encoding
from steercache.cli.sae_review import review_command
from steercache.cli.sae_show import show_command
from steercache.cli.sae_train import train_command
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.engines import EngineName

run_option = click.option(
    "--run", shell_complete=complete_runs, help="Run by name, id or prefix.  [default: the newest text run]"
)
encoded_run_option = click.option(
    "--run", shell_complete=complete_runs, help="Run by name, id or prefix; required if the SAE encoded several runs."
)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps or auto.")


@click.group()
def sae() -> None:
    """Encode a run's rows as features of a sparse autoencoder (SAE), and look at them.

    \b
    steercache sae show gemma-scope-2b-pt-res-canonical
    steercache sae encode gemma-scope-2b-pt-res-canonical-l12 --run my-run
    steercache query feature_top_tokens -p feature=123
    """


sae.add_command(show_command)
sae.add_command(review_command)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `steercache sae encode`."""

    sae: str
    run: str | None
    layers: str | None
    device: str
    allow_foreign: bool
    engine: "EngineName"
    workers: int
    address: str | None
    cpus_per_worker: float
    gpus_per_worker: float
    root: Path
    as_json: bool


@sae.command("encode")
@click.argument("sae", shell_complete=complete_saes)
@run_option
@click.option(
    "--layer",
    "layers",
    cls=RenamedOption,
    former=["--layers"],
    help="Blocks of an SAE manifest that lists several, such as 5,10,12-20.  [default: its only one]",
)
@device_option
@click.option("--allow-foreign", is_flag=True, help="Take an SAE of another model or BOS convention, with a warning.")
@engine_options
@root_option
@json_option
@takes(EncodeOptions)
def encode_command(asked: EncodeOptions) -> None:
    """Encode the rows of a run with SAE: a manifest, NAME-l12, or a folder that sae-lens wrote. Safe to kill, resumes.

    \b
    steercache sae encode my-sae --run my-run
    steercache sae encode gemma-scope-2b-pt-res-canonical --layer 10,12 --run my-run
    """
    from steercache.api.cache import open_cache_at

    cache = open_cache_at(asked.root)
    with progress_bar("encoding", total=None, unit="rows", quiet=asked.as_json) as bar:
        layers: list[int | None] = list(parse_layers(asked.layers) or ()) or [None]
        done = [
            cache.encode(
                asked.sae,
                run=asked.run,
                layer=layer,
                device=asked.device,
                allow_foreign=asked.allow_foreign,
                engine=asked.engine,
                workers=asked.workers,
                address=asked.address,
                cpus_per_worker=asked.cpus_per_worker,
                gpus_per_worker=asked.gpus_per_worker,
                progress=bar.show,
                on_note=note,
            )
            for layer in layers
        ]
    if asked.as_json:
        print_json([plain_encoding(one) for one in done])
        return
    for one in done:
        new = f"{one.n_rows_new:,} of them new, in {one.seconds:.1f} s" if one.n_rows_new else "all of them were there"
        click.echo(
            f"{one.n_rows:,} rows of {one.site} {one.layer} as {one.sae.d_sae:,} features, {new};"
            f" {one.l0:.1f} fire per row, first positions included; {human_bytes(one.n_bytes)}"
        )
        if one.n_rows < one.n_rows_of_run:
            note(f"{one.n_rows_of_run - one.n_rows:,} rows are not encoded")
        if one.n_non_finite:
            note(f"{one.n_non_finite:,} rows hold infinities or NaN and have no features")
        if one.lossy:
            note("the rows had lost precision (int8): their features differ from those of the model's own activations")
    named = f" -p sae={shlex.quote(done[-1].sae.name)} -p run={done[-1].run_id[:SHORT_ID]}"
    next_commands(
        f"steercache query features_of_concept -p concept=counting{named}",
        f"steercache query feature_top_tokens -p feature=0{named}",
    )


@sae.command("rm")
@click.argument("sae", shell_complete=complete_encoded_saes)
@encoded_run_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@root_option
@json_option
def rm_command(sae: str, run: str | None, yes: bool, root: Path, as_json: bool) -> None:
    """Remove a run's features of SAE; the run and the SAE stay, and encoding again makes the same.

    \b
    steercache sae rm my-sae --run my-run --yes
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.sae_encoding import remove_encoded

    cache = open_cache_at(root)
    found = cache.encoded(sae, run=run)
    name = cache.folder.name_of(found.run_id)
    if not yes:
        again = f"steercache sae rm {shlex.quote(sae)} --run {shlex.quote(name)} --yes"
        raise UsageError(f"this removes {found.n_rows:,} encoded rows of {name!r}", hint=again)
    _, n_bytes = remove_encoded(cache.folder, found.sae.sae_id, found.run_id)
    if as_json:
        print_json({"sae_id": found.sae.sae_id, "run_id": found.run_id, "n_bytes": n_bytes})
        return
    click.echo(f"removed the features of {name} by {found.sae.name}, {human_bytes(n_bytes)} freed")


sae.add_command(health_command)
sae.add_command(list_command)
sae.add_command(train_command)
