"""Every public name has a docstring: shapes where it takes or returns arrays, `Raises` where it raises."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import steercache
from steercache.api import analyses
from steercache.core import errors
from steercache.fit import catalogue

ARRAY = re.compile(r"NDArray|ndarray|FloatArray|RowIndex|Tensor")
SHAPE = re.compile(r"shape|\((?:[a-z0-9_]+, ?)+[a-z0-9_]*\)|\([a-z],\)")
ERRORS = {name for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)}
ANALYSES = [
    name
    for name, thing in vars(analyses).items()
    if inspect.isfunction(thing) and thing.__module__ == analyses.__name__
]


def members_of(cls: type) -> Iterator[tuple[str, Any]]:
    """(name, member) of a class and of those of ours that it is made of."""
    for part in cls.__mro__:
        if part.__module__.startswith("steercache"):
            yield from vars(part).items()


def public() -> Iterator[tuple[str, Any]]:
    """(name, object): every public name, and the public methods and properties of public classes."""
    named = {f"steercache.{name}": getattr(steercache, name) for name in steercache.__all__}
    named |= {f"steercache.fit.{name}": getattr(steercache.fit, name) for name in steercache.fit.__all__}
    named |= {f"steercache.api.analyses.{name}": getattr(analyses, name) for name in ANALYSES}
    for name, thing in named.items():
        yield name, thing
        if inspect.isclass(thing):
            for member, value in members_of(thing):
                if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


NAMES = dict(public())
FUNCTIONS = {
    name: inspect.unwrap(thing.fget if isinstance(thing, property) else thing)
    for name, thing in NAMES.items()
    if isinstance(thing, property) or inspect.isroutine(thing)
}


def doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def raised_by(function: Any) -> set[str]:
    """Errors of the package that a function raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = [
        node.exc.func for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    return {ast.unparse(function).rpartition(".")[2] for function in raised} & ERRORS


@pytest.mark.parametrize("name", [n for n, thing in NAMES.items() if not isinstance(thing, dict)])
def test_a_public_name_has_a_docstring_that_begins_with_a_sentence(name: str) -> None:
    text = doc(NAMES[name])
    assert len(text.split()) >= 3, name
    assert re.search(r"[.:]( |\n|$)", text), name


def test_the_methods_of_fit_are_a_documented_table() -> None:
    source = inspect.getsource(catalogue)
    assert re.search(r'^METHODS[^\n]*\n"""', source, re.MULTILINE)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_function_that_takes_or_returns_arrays_says_their_shape(name: str) -> None:
    annotations = [str(annotation) for annotation in inspect.get_annotations(FUNCTIONS[name]).values()]
    if any(ARRAY.search(one) for one in annotations) or name.endswith(".torch"):
        assert SHAPE.search(doc(FUNCTIONS[name])), name


@pytest.mark.parametrize("name", [n for n, thing in NAMES.items() if dataclasses.is_dataclass(thing)])
def test_a_class_that_holds_arrays_says_their_shape(name: str) -> None:
    if any(ARRAY.search(str(field.type)) for field in dataclasses.fields(NAMES[name])):
        assert SHAPE.search(doc(NAMES[name])), name


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_what_a_function_raises_itself_is_in_its_docstring(name: str) -> None:
    missing = [error for error in raised_by(FUNCTIONS[name]) if error not in doc(FUNCTIONS[name])]
    assert missing == []
    if "Raises:" in doc(FUNCTIONS[name]):
        assert re.search(r"Raises:\n\s+\w+", doc(FUNCTIONS[name]))


def test_the_rules_find_what_they_look_for() -> None:
    def bad() -> None:
        """Do something."""
        raise errors.UsageError("no")

    assert raised_by(bad) == {"UsageError"}
    assert SHAPE.search("rows (n, d)")
    assert SHAPE.search("of shape n")
    assert not SHAPE.search("the rows (all of them)")
