"""`steercache sae show`: what an SAE is, or which SAEs a manifest has."""

import shlex
from dataclasses import asdict

import click

from steercache.cli.completion import complete_saes
from steercache.cli.options import json_option
from steercache.cli.output import next_commands, print_json, print_table


@click.command("show")
@click.argument("sae", shell_complete=complete_saes)
@click.option("--layer", type=click.IntRange(min=0), help="Block, for an SAE manifest that lists several.")
@json_option
def show_command(sae: str, layer: int | None, as_json: bool) -> None:
    """Describe SAE: a manifest, NAME-l12, or a folder that sae-lens wrote. For a manifest of several layers, list its SAEs.

    \b
    steercache sae show gemma-scope-2b-pt-res-canonical
    """
    from steercache.api.saes import load_sae, saes_of_manifest

    several = saes_of_manifest(sae)
    if layer is None and several and several[0].layer is not None:
        if as_json:
            print_json([asdict(one) for one in several])
            return
        columns = ["name", "model", "layer", "release or folder", "id"]
        print_table(columns, [[one.name, one.model, one.layer, one.place, one.sae] for one in several])
        next_commands(f"steercache sae show {several[0].name}")
        return
    spec = load_sae(sae, layer=layer).spec
    if as_json:
        print_json(spec.record())
        return
    trained = f", trained as {spec.trained_as}" if spec.trained_as not in (None, spec.architecture) else ""
    bos = {True: "with BOS", False: "without BOS", None: "not said"}[spec.prepend_bos]
    facts: list[list[str | None]] = [
        ["id", spec.sae_id],
        ["architecture", f"{spec.architecture}{trained}"],
        ["features", f"{spec.d_sae:,} of activations of width {spec.d_in:,}"],
        ["model", spec.model_name],
        ["reads", spec.site if spec.layer is None else f"{spec.site} of layer {spec.layer}"],
        ["texts", f"{bos}, context of {spec.context_size:,} tokens" if spec.context_size else bos],
        ["model's weights", ", ".join(spec.weight_processing) or "as published"],
        ["from", ", ".join(f"{key} {value}" for key, value in spec.source.items() if value is not None)],
        ["Neuronpedia", spec.neuronpedia_id],
    ]
    print_table(["what", "value"], facts, title=spec.name)
    next_commands(f"steercache sae encode {shlex.quote(sae)}" + (f" --layer {layer}" if layer is not None else ""))
