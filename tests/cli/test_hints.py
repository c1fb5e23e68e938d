"""Every command that an error, a note, a docstring or a document tells people to type exists, with its options."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from steercache.cli.hints import SPELLED, with_options
from steercache.cli.main import COMMANDS, steercache
from steercache.core.errors import UsageError

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "steercache"
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "DECISIONS.md", "CHANGELOG.md", "cache/README.md")),
    *sorted((REPOSITORY / "queries").glob("*.sql")),
    *sorted((REPOSITORY / "manifests").rglob("*.yaml")),
    *sorted(PACKAGE.rglob("*.md")),
]
LINE = re.compile(r"""\bsteercache ([a-z-](?:"[^"]*"|[^"()`\n;,])*)""")  # ends at these marks, outside of quotes
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHERS = re.compile(r"\b(pip|hf) [a-z]+.*")  # programs of other people, with options of their own


@dataclass(frozen=True, slots=True)
class Said:
    """A text of the package: `is_advice` for what a person at the terminal is told to type, else a docstring or prose."""

    place: str
    text: str
    is_advice: bool


def filled(node: ast.expr) -> str | None:
    """The text of a string; a value put into it reads 1, and nothing where it follows a word, as ` --root FOLDER` does."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [filled(node.left), filled(node.right)]
        return None if sides == [None, None] else "".join(side or "" for side in sides)
    if not isinstance(node, ast.JoinedStr):
        return None
    text = ""
    for part in node.values:
        text += str(part.value) if isinstance(part, ast.Constant) else "" if re.search(r"\w$", text) else "1"
    return text


def advice_in(tree: ast.Module) -> set[int]:
    """Ids of the expressions that are a hint or a remedy, an argument of `next_commands`, or a constant (`REMEDY`)."""
    found: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [k.value for k in node.keywords if k.arg in ("hint", "remedy", "list_command")]
            found += node.args if isinstance(node.func, ast.Name) and node.func.id == "next_commands" else []
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            found.append(node.value)
    return {id(inner) for node in found for inner in ast.walk(node)}


def said_by(path: Path) -> Iterator[Said]:
    tree = ast.parse(path.read_text())
    advice = advice_in(tree)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}

    def walk(node: ast.AST) -> Iterator[Said]:
        text = filled(node) if isinstance(node, ast.expr) else None
        if text is not None:
            is_advice = id(node) in advice and id(node) not in docstrings
            yield Said(f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}", text, is_advice)
            return
        for inner in ast.iter_child_nodes(node):
            yield from walk(inner)

    return walk(tree)


SAID = [said for path in sorted(PACKAGE.rglob("*.py")) for said in said_by(path)]
ADVICE = [said for said in SAID if said.is_advice and "\n" not in said.text]  # not the style sheet


def command_of(words: list[str]) -> tuple[click.Command | None, list[str]]:
    """The command that the first words call (a group where they end there, None where a word is none), and what is left."""
    command: click.Command = steercache
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return None, words
        command, words = found, words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    named = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return named | {"--help"} | ({"--version"} if command is steercache else set())


def all_options(command: click.Command = steercache) -> set[str]:
    inner: set[str] = set()
    if isinstance(command, click.Group):
        names = command.list_commands(click.Context(command))
        inner = set().union(*(all_options(command.get_command(click.Context(command), n)) for n in names))  # type: ignore[arg-type]
    return inner | options_of(command)


def mentioned(text: str) -> Iterator[str]:
    """What follows `steercache` in a text, where it is a command's name and not a sentence about the project."""
    for line in LINE.findall(text):
        if line.split()[0] in COMMANDS:
            yield line


def wrong_words(line: str) -> str | None:
    """What is wrong with a command that is only named: a word that is no command, an option that it does not have."""
    command, rest = command_of(line.split())
    if command is None:
        return None if rest[0] == "..." or rest[0].isupper() else f"no command {rest[0]!r}"
    unknown = set(OPTION.findall(" ".join(rest))) - options_of(command)
    return f"no option {', '.join(unknown)}" if unknown else None


def wrong_call(line: str) -> str | None:
    """What is wrong with a command that is meant to be typed as it is."""
    command, rest = command_of(shlex.split(line.rstrip(" ."), comments=True))
    if command is None:
        return f"no command {rest[0]!r}"
    try:
        command.make_context("hint", rest)
    except click.exceptions.Exit:  # --help
        return None
    except click.ClickException as error:
        return error.format_message()
    return None


def test_every_command_that_people_are_told_to_type_parses() -> None:
    calls = [(said, line) for said in ADVICE for line in LINE.findall(said.text)]
    assert len(calls) > 60
    wrong = [f"{said.place}: steercache {line!r}: {wrong_call(line)}" for said, line in calls if wrong_call(line)]
    assert wrong == []


def test_every_option_that_a_hint_names_alone_is_one_of_some_command() -> None:
    named = {(said.place, option) for said in ADVICE for option in OPTION.findall(OTHERS.sub("", said.text))}
    assert len(named) > 30
    known = all_options()
    assert [f"{place}: {option}" for place, option in sorted(named) if option not in known] == []


def test_every_command_that_code_and_docstrings_name_exists_with_its_options() -> None:
    lines = [(said.place, line) for said in SAID for line in mentioned(said.text)]
    assert len(lines) > 150
    assert [f"{place}: steercache {line}: {wrong_words(line)}" for place, line in lines if wrong_words(line)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_a_document_names_exists_with_its_options(path: Path) -> None:
    lines = list(mentioned(path.read_text()))
    assert [f"steercache {line}: {wrong_words(line)}" for line in lines if wrong_words(line)] == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("eval --list", "--list"),
        ("cache mend", "mend"),
        ("build", "MANIFEST"),
        ("fit mean-shift --strength 3", "--strength"),
        ("query concept_counts shows what is labelled", "unexpected"),
    ],
)
def test_a_command_that_does_not_exist_would_be_found(line: str, problem: str) -> None:
    assert problem in str(wrong_call(line))


def test_values_put_into_a_command_are_read_as_words() -> None:
    (call,) = ast.parse("""f'steercache build {name}{at_root} or "{words}" --n {n}'""").body
    assert isinstance(call, ast.Expr)
    assert filled(call.value) == 'steercache build 1 or "1" --n 1'


@pytest.mark.parametrize(
    ("words", "hint", "shown"),
    [
        (("steer", "v"), "allow it (`allow_foreign`), and say so", "allow it (`--allow-foreign`), and say so"),
        (("steer", "v"), "name the model", "name the model (--model NAME)"),
        (("build", "x"), "a budget of 3 GB (`budget_gb`)", "a budget of 3 GB (`--budget`)"),
        (("manifest", "list"), "keep the cache in another folder", "keep the cache in another folder"),
        (("vectors", "list"), "keep the cache in another folder", "keep the cache in another folder (--root FOLDER)"),
        (("bild",), "list the named queries first", "list the named queries first (steercache query --list)"),
    ],
)
def test_hints_of_the_library_get_the_options_of_the_called_command(
    words: tuple[str, ...], hint: str, shown: str
) -> None:
    text = with_options(UsageError("it went wrong", place="here", hint=hint), steercache, words)
    assert text == f"here: it went wrong\ntry: {shown}"


def test_every_spelling_of_a_hint_parses() -> None:
    known = all_options() | {"-o"}
    for _, typed in SPELLED:
        if typed.startswith("steercache "):
            assert wrong_call(typed.removeprefix("steercache ")) is None
        else:
            assert typed.split()[0] in known
