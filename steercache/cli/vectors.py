"""`steercache vectors`: list, show, fit again, compare."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from steercache.cli.completion import complete_vectors
from steercache.cli.options import json_option, root_option
from steercache.cli.output import next_commands, print_json, print_table
from steercache.cli.vector_exchange import export_command, import_command, schema_command, suggest_command
from steercache.cli.vector_tables import best_fit, describe_vector, print_layers, sae_facts, steer_commands, use_facts
from steercache.core.errors import DamagedError
from steercache.core.ids import SHORT_ID


@click.group()
def vectors() -> None:
    """List, show, refit, compare, export and import vectors.

    \b
    steercache vectors list
    steercache vectors show counting
    """


vectors.add_command(export_command)
vectors.add_command(import_command)
vectors.add_command(suggest_command)
vectors.add_command(schema_command)


@vectors.command("list")
@root_option
@json_option
def list_command(root: Path, as_json: bool) -> None:
    """List every vector of the cache, newest first, with what its fit tells at the layer of the highest AUC.

    \b
    steercache vectors list
    """
    from steercache.api.cache import open_cache_at

    stored = open_cache_at(root).stored_vectors()
    if as_json:
        print_json([describe_vector(s.vector) | {"created_at": s.created_at} for s in stored])
        return
    columns = ["id", "name", "method", "recipe", "concept", "layers", "best", "d'", "cos of differences"]
    columns += ["width", "run", "made"]
    rows = []
    for s in stored:
        v, made = s.vector, s.vector.provenance
        head = [v.vector_id[:SHORT_ID], v.name, v.method, made.get("recipe"), v.concept]
        head += [len(v.layers), *best_fit(v)]
        rows.append([*head, v.hidden_size, str(made.get("run_id") or "-")[:SHORT_ID], s.created_at[:16]])
    print_table(columns, rows)
    next_commands("steercache vectors show NAME" if stored else "steercache fit mean-shift --all-concepts")


@vectors.command()
@click.argument("name", shell_complete=complete_vectors)
@root_option
@json_option
def show(name: str, root: Path, as_json: bool) -> None:
    """Show the vector NAME (a name, an id or a prefix): its provenance, and its diagnostics per layer.

    \b
    steercache vectors show counting
    """
    from steercache.api.cache import open_cache_at

    vector = open_cache_at(root).vector(name)
    if as_json:
        print_json(describe_vector(vector))
        return
    made = vector.provenance
    query, counted = made.get("query") or {}, made.get("rows") or {}
    bindings = ", ".join(f"{k}={v}" for k, v in (query.get("bindings") or {}).items())
    facts: list[list[Any]] = [
        ["id", vector.vector_id],
        ["method", f"{vector.method}, recipe {made.get('recipe', '-')}"],
        ["concept", vector.concept],
        ["query", f"{query.get('name') or 'inline SQL'} ({bindings})" if query else None],
        ["run", f"{made.get('run_id', '-')}, {made.get('generation', '-')}{', LOSSY' if made.get('lossy') else ''}"],
        ["rows", ", ".join(f"{k} {v}" for k, v in counted.items() if k != "digest") or None],
        *sae_facts(vector),
        ["versions", ", ".join(f"{k} {v}" for k, v in (made.get("versions") or {}).items()) or None],
        *use_facts(vector),
    ]
    print_table(["what", "value"], facts, title=vector.name)
    click.echo()
    print_layers(vector)
    next_commands(f"steercache vectors refit {shlex.quote(vector.name)}", *steer_commands(vector, root))


@vectors.command()
@click.argument("name", shell_complete=complete_vectors)
@root_option
@json_option
def refit(name: str, root: Path, as_json: bool) -> None:
    """Fit vector NAME again from its provenance, and report whether it has the same bytes.

    \b
    steercache vectors refit counting
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.fitting import differences

    cache = open_cache_at(root)
    first, second = cache.vector(name), cache.refit(name)
    found = differences(first, second)
    if as_json:
        print_json({"name": first.name, "same_bytes": not found or found[0] != "values", "differences": found})
    elif not found:
        click.echo(f"{first.name}: the same bytes ({first.vector_id[:SHORT_ID]})")
    if found and found[0] == "values":
        raise DamagedError(
            f"fitted again, {first.name!r} has other values; " + ("; ".join(found[1:]) or "nothing else changed"),
            hint="nothing was saved; to keep the new one beside it, fit with the same query: `steercache fit --help`",
        )
    if found and not as_json:
        click.echo(f"{first.name}: the same values, though {'; '.join(found)}")


@vectors.command()
@click.argument("names", nargs=-1, required=True, shell_complete=complete_vectors)
@root_option
@json_option
def compare(names: Sequence[str], root: Path, as_json: bool) -> None:
    """Print the cosine between the vectors NAMES, per layer.

    \b
    steercache vectors compare counting counting-probe
    """
    from steercache.api.cache import open_cache_at

    rows = open_cache_at(root).compare(*names)
    if as_json:
        print_json(rows)
        return
    pairs = list(rows[0]["cosines"])
    print_table(["layer", *pairs], [[row["layer"], *(row["cosines"][pair] for pair in pairs)] for row in rows])
