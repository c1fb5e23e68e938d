"""Hints of the library as a person at a terminal would type them: it knows parameters, the command line has options."""

import re
from collections.abc import Sequence

import click

from steercache.core.errors import SteercacheError

# What a hint of the library says, and the option or command that does it here. An option is added where the command has it.
SPELLED = (
    ("name the model", "--model NAME"),
    ("name a model, such as", "--model smollm2-135m"),
    ("another folder", "--root FOLDER"),
    ("choose another port", "--port N"),
    ("another disk", "--root FOLDER"),
    ("writable folder", "--root FOLDER"),
    ("mode auto", "--mode auto"),
    ("choose auto or cpu", "--device cpu"),
    ("load it in bfloat16", "--dtype bfloat16"),
    ("the default recipe", "--recipe default"),
    ("fewer workers", "--workers 1"),
    ("force it to mix them", "--force"),
    ("name the file of the picture", "--picture FILE"),
    ("name the picture's file", "--picture FILE"),
    ("another file", "-o FILE"),
    ("give the run", "--run NAME"),
    ("compare text only", "--text-only"),
    ("allow a foreign SAE", "--allow-foreign"),
    ("name words such as", "--words one,two,three"),
    ("folder of another cache", "--root FOLDER"),
    ("create=True", "steercache build smollm2-concepts"),
    ("list the named queries", "steercache query --list"),
    ("a query of kind selection", "steercache query --list"),
    ("its header says what", "steercache query --show NAME"),
    ("mend the permissions", "--root FOLDER"),
    ("say which entries they are", "--entries 1,15,30"),
    ("say how they are counted", "--numbering states"),
    ("say which: block, or norm", "--last norm"),
    ("have it verified", "--verify 8"),
    ("give a list of requests", "--requests FILE"),
    ("leave them out by name", "--leave-out ID"),
    ("keep the first, or keep both", "--duplicates first"),
    ("allow rows that are not finite", "--allow-non-finite"),
    ("name the dtype to store", "--dtype float32"),
    ("name the trace whose data set", "--trace NAME"),
    ("keep the embedding", "--embedding"),
    ("remove the damaged shards of", "steercache cache rm NAME --shards"),
)
_PARAMETER = re.compile(r"`([a-z][a-z_]*)`")


def with_options(error: SteercacheError, group: click.Group, words: Sequence[str]) -> str:
    """The error's text, its hint in the words of the command that was called."""
    text = str(error)
    if not error.hint:
        return text
    options = _options_of(group, words)
    hint = _PARAMETER.sub(lambda found: f"`{options[found[1]]}`" if found[1] in options else found[0], error.hint)
    names = set(options.values())
    added = [
        typed for phrase, typed in SPELLED if phrase in error.hint and _is_here(typed, names) and typed not in hint
    ]
    more = f" ({'; '.join(dict.fromkeys(added))})" if added else ""
    return f"{text.removesuffix(error.hint)}{hint}{more}"


def _is_here(typed: str, options: set[str]) -> bool:
    return typed.startswith("steercache ") or typed.split()[0] in options


def _options_of(group: click.Group, words: Sequence[str]) -> dict[str, str]:
    """The options of the called command by the names of their parameters."""
    command: click.Command | None = group
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
    found: dict[str, str] = {}
    for parameter in [] if command is None else command.params:
        if isinstance(parameter, click.Option) and parameter.name is not None:
            found[parameter.name] = next((name for name in parameter.opts if name.startswith("--")), parameter.opts[0])
    return found | ({"budget_gb": found["budget"]} if "budget" in found else {})
