"""Messages of the library make sense in a notebook too: they name no option of the command line."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import steercache

PACKAGE = Path(steercache.__file__).parent
PROGRAMS = {"zoo/train.py", "zoo/evaluate.py"}  # programs of their own, with an argument parser
OTHERS = re.compile(r"\b(pip|hf|apt-get|iconv) ")  # commands of other programs
OPTION = re.compile(r"(?:^|[\s(`'\"])(--[a-z][a-z-]+)")


def texts(call: ast.Call) -> Iterator[str]:
    """The strings of a call's arguments, f-strings without their values."""
    for node in (*call.args, *(keyword.value for keyword in call.keywords)):
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def options_named(source: str) -> list[str]:
    """Options of a command line in the arguments of errors and warnings."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name.endswith(("Error", "Warning")) or name == "warn":
                words = "\n".join(texts(node))
                found += [] if OTHERS.search(words) else OPTION.findall(words)
    return found


def test_options_in_messages_are_found() -> None:
    assert options_named('raise UsageError("no", hint=f"{x}: --root FOLDER, or `--mode auto`")') == ["--root", "--mode"]
    assert options_named('raise UsageError("no", hint="pip install --no-deps x")') == []


def test_no_message_of_the_library_names_an_option_of_the_command_line() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith("cli/") and place not in PROGRAMS and (named := options_named(path.read_text())):
            found[place] = named
    assert found == {}
