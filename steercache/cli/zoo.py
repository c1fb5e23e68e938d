"""`steercache zoo`: the models and SAEs that ship with it."""

from pathlib import Path

import click

from steercache.cli.options import LocalPath, json_option, root_option
from steercache.cli.output import next_commands, note, print_json, print_table


@click.group(name="zoo")
def zoo_group() -> None:
    """Small models that ship with steercache, with their model cards.

    \b
    steercache zoo list
    """


@zoo_group.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the models with their scores.

    \b
    steercache zoo list
    """
    from dataclasses import asdict

    from steercache.api.shipped import shipped_models, shipped_saes

    rows = []
    for model in shipped_models():
        shuffled = {"shuffled": model.accuracy_shuffled} if model.accuracy else {}
        rows.append({"name": model.name, "reads": model.reads, **model.accuracy, **shuffled})
    saes = shipped_saes()
    if as_json:
        print_json(rows + [{"reads": f"activations of {one.model}", **asdict(one)} for one in saes])
        return
    columns = ["model", "reads", "relation (word)", "relation (letter)", "count", "shuffled pictures"]
    keys = ("name", "reads", "Relation/word", "Relation/letter", "Count/number", "shuffled")
    print_table(columns, [[row.get(key) for key in keys] for row in rows])
    print_table(
        ["SAE", "model", "layer", "features", "explained variance", "L0"],
        [[one.name, one.model, one.layer, f"{one.n_features:,}", one.explained_variance, one.l0] for one in saes],
    )
    next_commands("steercache zoo card demo", "steercache zoo build tiny")


@zoo_group.command("card")
@click.argument("name")
def card_command(name: str) -> None:
    """Print the model card of NAME: recipe, data, scores and limitations.

    \b
    steercache zoo card demo
    """
    from steercache.api.shipped import model_card

    click.echo(model_card(name))


@zoo_group.command("build")
@click.argument("name")
@click.argument("folder", type=LocalPath(path_type=Path, file_okay=False), required=False)
@root_option
@json_option
def build_command(name: str, folder: Path | None, root: Path, as_json: bool) -> None:
    """Write the complete checkpoint folder of NAME, into FOLDER or the cache's own models.

    It loads like a checkpoint of the Hugging Face hub.

    \b
    steercache zoo build tiny
    steercache zoo build tiny my-models/tiny
    """
    from steercache.api.shipped import build_model, shipped_models

    built = build_model(name, folder or root / "models" / f"zoo-{name}")
    if as_json:
        print_json({"name": name, "folder": str(built), "files": sorted(p.name for p in built.iterdir())})
        return
    note(f"{name} is in {built}")
    if name in {model.name for model in shipped_models()} and not name.endswith("-backbone"):
        next_commands(f"steercache eval {name} scenes --vector NAME --layer 2 --alpha 1")
