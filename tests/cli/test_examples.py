"""The examples in the help of every command are run: on a small model that stands where they name a large one."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from steercache.cli.main import steercache
from tests.cli.small import RUN, Terminal

TOO_LONG = frozenset({"demo"})  # runs for minutes on a real model: `make demo` is its test


def commands_below(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command from `command` down, with the words that call it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if name in TOO_LONG:
                continue
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands_below(inner, (*words, name))


def examples_of(command: click.Command) -> list[str]:
    """The lines of a command's help that call the program."""
    return [line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("steercache ")]


TEXT = (("steercache", "zoo", "card"), ("steercache", "manifest", "schema"), ("steercache", "vectors", "schema"))
# a card is for people; a schema is JSON
COMMANDS = list(commands_below(steercache, ("steercache",)))
ONLY_PARSED = (
    "steercache eval ",
    "steercache fit head-probes ",
    "steercache fit recipe caa ",
    "steercache fit recipe cast ",
    "steercache fit recipe refusal-ablation ",
    "steercache fit sae ",
    "steercache grid ",
    "steercache plan tiny-scenes",
    "steercache query feature_top_tokens",
    "steercache pull ",
    "steercache push ",
    "steercache report ",
    "steercache activations import ",
    "steercache sae ",
    "steercache screen ",
    "steercache serve",  # serves until it is interrupted: tests/explorer
    "steercache vectors import ",
    "steercache vectors suggest ",
    "steercache zoo build ",
    "steercache zoo card ",
)  # they need models of their own (tests/zoo), an SAE (tests/sae), pairs or heads (tests/api), files of other engines
EXAMPLES = sorted({example for _, command in COMMANDS for example in examples_of(command)})


def small(words: list[str]) -> list[str]:
    """The words of an example, with the small trace in place of the shipped one: run names are the same already."""
    if words[0] in ("plan", "build"):
        return ["my-trace.yaml" if word == RUN else word for word in words]
    return words


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_every_commands_help_has_an_example_that_calls_it(words: tuple[str, ...], command: click.Command) -> None:
    assert any(tuple(shlex.split(example))[: len(words)] == words for example in examples_of(command))


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_every_option_is_explained_and_what_a_program_may_want_to_read_comes_as_json(
    words: tuple[str, ...], command: click.Command
) -> None:
    options = {option.opts[0]: option.help for option in command.params if isinstance(option, click.Option)}
    assert [name for name, said in options.items() if not said] == []
    assert isinstance(command, click.Group) or "--json" in options or words in TEXT


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.startswith(ONLY_PARSED)])
def test_an_example_that_needs_another_model_has_words_and_options_that_exist(example: str) -> None:
    command: click.Command = steercache
    words = shlex.split(example)[1:]
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    assert command.make_context("example", words).params


@pytest.mark.parametrize("example", [e for e in EXAMPLES if not e.startswith(ONLY_PARSED)])
def test_an_example_runs(example: str, work: Path, terminal: Terminal) -> None:
    line, _, target = example.partition(" > ")
    code = terminal(*small(shlex.split(line)[1:]))
    assert code == 0, terminal.err
    assert terminal.out or target or "-o" in line
