"""`steercache fit --list`: every way to make a vector, with its formula, source and command."""

import click

from steercache.cli.output import print_json


def list_methods(*, as_json: bool) -> None:
    """Print methods and recipes, for people as paragraphs (formulas are long), for programs as one document."""
    from steercache.api.fitting import method_facts
    from steercache.api.recipes import recipe_facts

    methods, recipes = method_facts(), recipe_facts()
    if as_json:
        print_json({"methods": methods, "recipes": recipes})
        return
    for one in methods:
        click.echo(f"{one['name']}\n  {one['formula']}\n  length:  {one['length']}\n  source:  {one['source']}")
        click.echo(f"  command: {one['command']}\n")
    click.echo("Recipes of papers, method and use in one:\n")
    for one in recipes:
        click.echo(
            f"{one['name']}: {one['summary']}\n  {one['formula']}\n  method:  {one['method']}\n  use:     {one['use']}"
        )
        click.echo(f"  source:  {one['source']}\n  command: {one['command']}")
        for sentence in one["differs"]:
            click.echo(f"  differs: {sentence}")
        click.echo("")
