"""The command line that was typed, rebuilt from what click read of it: for pages that say how to make them again."""

import shlex
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import click
from click.core import ParameterSource


def typed_command(*, without: frozenset[str] = frozenset({"json"})) -> str:
    """The running command with the options that were given, quoted for a shell.

    Of an absolute path only the last part stands there, so that it names no folder of this machine; options named in `without`
    are left out.
    """
    context = click.get_current_context()
    words: list[str] = []
    at: click.Context | None = context
    while at is not None and at.parent is not None:
        words.insert(0, at.info_name or "")
        at = at.parent
    for parameter in context.command.params:
        words += _words(context, parameter, without)
    return shlex.join(["steercache", *words])


def _words(context: click.Context, parameter: click.Parameter, without: frozenset[str]) -> Iterator[str]:
    name = parameter.name or ""
    if context.get_parameter_source(name) not in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        return
    value = context.params.get(name)
    option = max(parameter.opts, key=len)
    if option.lstrip("-") in without or value is None:
        return
    if isinstance(parameter, click.Argument):
        yield from map(_shown, value if isinstance(value, tuple | list) else [value])
    elif isinstance(parameter, click.Option) and parameter.is_flag:
        yield option if value else max(parameter.secondary_opts, key=len, default=option)
    else:
        for one in value if parameter.multiple else [value]:
            yield option
            yield from map(_shown, one if isinstance(one, tuple | list) else [one])


def _shown(value: Any) -> str:
    text = str(value)
    return PurePath(text).name if Path(text).is_absolute() else text
