"""`steercache push` and `steercache pull`: parts of a cache on the Hugging Face hub, or in a folder."""

from dataclasses import dataclass
from pathlib import Path

import click

from steercache.cli.completion import complete_runs
from steercache.cli.options import json_option, parse_layers, root_option, takes
from steercache.cli.output import human_bytes, next_commands, note, print_json, progress_bar
from steercache.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """The options of `push`."""

    names: tuple[str, ...]
    target: str
    layers: str | None
    public: bool
    root: Path
    as_json: bool


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_runs)
@click.argument("target")
@click.option("--layer", "layers", help="Send runs with these layers only, such as 5,10-12.")
@click.option(
    "--public", is_flag=True, help="Make a repository that everybody can read; by default a new one is private."
)
@root_option
@json_option
@takes(PushOptions)
def push(asked: PushOptions) -> None:
    """Send runs, vectors, sweeps, features of SAEs or SAE folders to TARGET: a folder, hf://datasets/USER/NAME, or a
    bucket (s3://BUCKET/FOLDER, gs://..., az://...).

    What is there already with the same hash is not sent; an interrupted push goes on with the same command. A card and a
    listing with the SHA-256 of every file are written last. Nothing that is sent says which machine it was; texts of samples
    are sent.

    \b
    steercache push smollm2-concepts counting shared/
    """
    from steercache.api.cache import open_cache_at

    with progress_bar("pushing", total=None, unit="bytes", quiet=asked.as_json) as bar:
        done = open_cache_at(asked.root).push(
            asked.names, asked.target, layers=parse_layers(asked.layers), private=not asked.public, progress=bar.show
        )
    if asked.as_json:
        print_json({"place": done.place, "n_files": done.n_files, "n_kept": done.n_kept, "n_bytes": done.n_bytes})
        return
    for item in done.items:
        click.echo(f"{item.kind} {item.name}  {human_bytes(item.n_bytes)}")
    click.echo(f"{done.n_files} files sent ({human_bytes(done.n_bytes)}), {done.n_kept} were there already")
    next_commands(f"steercache pull {done.place} --root OTHER_CACHE")


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOptions:
    """The options of `pull`."""

    source: str
    names: tuple[str, ...]
    layers: str | None
    budget_gb: float
    root: Path
    as_json: bool


@click.command()
@click.argument("source")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--layer", "layers", help="Take these layers of runs only, such as 5,10-12: each run as a part.")
@click.option(
    "--budget",
    "budget_gb",
    metavar="GB",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Largest size in GB that is received.",
)
@root_option
@json_option
@takes(PullOptions)
def pull(asked: PullOptions) -> None:
    """Take what was pushed to SOURCE (a folder, hf://datasets/USER/NAME, or a bucket) into the cache: all of it, or the
    items NAME.

    Every file is checked against its listed size and SHA-256 before it gets its name; an interrupted pull goes on with the same
    command. What the cache has under the same id stays as it is.

    \b
    steercache pull shared/ counting
    """
    from steercache.api.cache import open_cache_at

    if asked.budget_gb > 1e9:
        raise UsageError(f"--budget {asked.budget_gb} is not a size", hint="--budget 20, or leave it out")
    with progress_bar("pulling", total=None, unit="bytes", quiet=asked.as_json) as bar:
        cache = open_cache_at(asked.root, create=True)
        layers = parse_layers(asked.layers)
        done = cache.pull(asked.source, asked.names, layers=layers, budget_gb=asked.budget_gb, progress=bar.show)
    if asked.as_json:
        items = [{"kind": i.kind, "id": i.id, "name": i.name, "n_bytes": i.n_bytes} for i in done.items]
        print_json({"place": done.place, "items": items, "n_files": done.n_files, "n_bytes": done.n_bytes})
        return
    for item in done.items:
        click.echo(f"{item.kind} {item.name}  {human_bytes(item.n_bytes)}")
        if item.kind == "sae":
            note(f"the SAE's folder is {asked.root / 'sae' / 'folders' / item.id}")
    for item in done.already:
        note(f"the {item.kind} {item.name} was here already and stays as it is")
    click.echo(f"{done.n_files} files received ({human_bytes(done.n_bytes)})")
    next_commands("steercache cache status")
