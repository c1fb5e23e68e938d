"""`steercache fit --list`: every way to make a vector, with its formula, source and command."""

import click

from steercache.cli.output import print_json


def list_methods(*, as_json: bool) -> None:
    """Print the methods, for people as paragraphs (formulas are long), for programs as one document."""
    from steercache.api.fitting import method_facts

    methods = method_facts()
    if as_json:
        print_json({"methods": methods})
        return
    for one in methods:
        click.echo(f"{one['name']}\n  {one['formula']}\n  length:  {one['length']}\n  source:  {one['source']}")
        click.echo(f"  command: {one['command']}\n")
