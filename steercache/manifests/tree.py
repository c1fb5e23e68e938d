"""Text to a tree of plain values, with the line of every one; nothing in the text is ever run.

Scalars resolve by YAML 1.2's core schema, as editors do: `no` and `on` are words and `1e-3` is a number, unlike in PyYAML's
own YAML 1.1. A number that the two read differently (`010`, `1:30`, `0x1F`, `1_000`) is refused.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from steercache.core.errors import ManifestError, Problem
from steercache.core.excerpts import first_line_of

MAX_BYTES = 256 * 1024  # the largest manifest anybody writes by hand is far below
MAX_INT_DIGITS = 18  # fits 64 bits

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLimits:
    """The largest document that is read: `n_values` counts after aliases are expanded, which bounds "billion laughs"."""

    n_bytes: int
    depth: int
    n_values: int


BOUNDS = DocumentLimits(n_bytes=MAX_BYTES, depth=24, n_values=20_000)
CARD_BOUNDS = DocumentLimits(
    n_bytes=4 * 2**20, depth=40, n_values=200_000
)  # cards of data sets with hundreds of configurations

_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^[-+]?[0-9]+$"),
    "float": re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_OTHER_IN_YAML_1_1 = re.compile(
    r"^[-+]?(?:0[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+|[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?|[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?)$"
)


_RESOLVERS = {None: [(f"{_TAG}{name}", pattern) for name, pattern in _CORE.items()]}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core scalars and no merge keys, timestamps or sexagesimal numbers."""

    yaml_implicit_resolvers = _RESOLVERS


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same with libyaml's parser, six times as fast."""

    yaml_implicit_resolvers = _RESOLVERS


def _loader_for(text: str) -> Any:
    """libyaml refuses halves of surrogate pairs, by which JSON writes characters beyond the first 65,536."""
    return _Loader if _SURROGATE.search(text) else _FastLoader


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A document as dicts, lists, strings, numbers, booleans and None; `lines` has the line (from 1) of every path in it.

    With `problems`, what they are about is left out or stands in as None.
    """

    value: Any
    lines: Mapping[Path, int]
    problems: tuple[Problem, ...] = ()

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


@dataclass(slots=True)
class _Walk:
    """What is gathered on the way through a document's nodes."""

    file: str
    bounds: DocumentLimits = BOUNDS
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    open_nodes: list[yaml.Node] = field(default_factory=list)

    def problem(self, path: Path, kind: str, message: str, node: yaml.Node) -> None:
        line = node.start_mark.line + 1 if node.start_mark is not None else None
        self.problems.append(Problem(loc=dotted(path), kind=kind, message=message, file=self.file, line=line))


def dotted(path: Path) -> str:
    """A path as people write it: `datasets.0.source.path`."""
    return ".".join(str(part) for part in path)


def read_tree(text: str, *, file: str, bounds: DocumentLimits = BOUNDS) -> Tree:
    """Parse one YAML (or JSON) document; what does not stop the parser (repeated keys, tags, odd numbers) is in `problems`.

    Raises:
        ManifestError: it cannot be parsed: syntax, size, depth, aliases that expand without bound.
    """
    node = _compose(text, file, bounds)
    walk = _Walk(file, bounds)
    value = _value(node, (), walk)
    return Tree(value=value, lines=walk.lines, problems=tuple(walk.problems))


def _error(file: str, *problems: Problem) -> ManifestError:
    return ManifestError("this document cannot be read", problems=problems, place=file)


def _compose(text: str, file: str, bounds: DocumentLimits) -> yaml.Node:
    """Text to PyYAML's nodes, with size and depth bounded before anything recursive runs."""

    def fail(kind: str, message: str, line: int | None = None) -> ManifestError:
        return _error(file, Problem(loc="", kind=kind, message=message, file=file, line=line))

    if len(text) > bounds.n_bytes:
        raise fail("too_large", f"more than {bounds.n_bytes // 1024} KiB; a manifest names data, it does not hold it")
    try:
        _bound(text, bounds, fail)
        node: yaml.Node | None = _loader_for(text)(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        several = "expected a single document" in (error.context or "")
        message = (
            "more than one document in a file" if several else ": ".join(filter(None, (error.context, error.problem)))
        )
        line = mark.line + 1 if mark is not None else None
        too_deep = "maximum nesting depth" in (error.problem or "")  # of libyaml itself, in PyYAML 6.0.4 and later
        raise fail("several_documents" if several else "too_deep" if too_deep else "syntax", message, line) from None
    except yaml.YAMLError as error:
        raise fail("syntax", first_line_of(error)) from None
    if node is None:
        raise fail("empty", "the document is empty")
    return node


def _bound(text: str, bounds: DocumentLimits, fail: Callable[[str, str, int | None], ManifestError]) -> None:
    """Depth and number of events, from the parser that does not recurse."""
    depth = 0
    for n, event in enumerate(yaml.parse(text, Loader=_loader_for(text))):
        line = event.start_mark.line + 1 if event.start_mark is not None else None
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > bounds.depth:
            raise fail("too_deep", f"nested more than {bounds.depth} deep", line)
        if n > 3 * bounds.n_values:
            raise fail("too_large", f"more than {bounds.n_values} values", line)


def _value(node: yaml.Node, path: Path, walk: _Walk) -> Any:
    """One node's plain value; records its line and its problems."""
    walk.lines.setdefault(path, node.start_mark.line + 1)
    if len(walk.lines) > walk.bounds.n_values:
        walk.problem((), "alias", f"aliases expand to more than {walk.bounds.n_values} values", node)
        raise _error(walk.file, *walk.problems)
    if node in walk.open_nodes:
        walk.problem(path, "alias", "an alias to the value that holds it", node)
        return None
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path, walk)
    expected = f"{_TAG}map" if isinstance(node, yaml.MappingNode) else f"{_TAG}seq"
    if node.tag != expected:
        walk.problem(path, "tag", f"the tag {_tag_name(node)} is not allowed; only plain values are", node)
    walk.open_nodes.append(node)
    if isinstance(node, yaml.MappingNode):
        value: Any = _mapping(node, path, walk)
    else:
        value = [_value(child, (*path, i), walk) for i, child in enumerate(node.value)]
    walk.open_nodes.pop()
    return value


def _mapping(node: yaml.MappingNode, path: Path, walk: _Walk) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
            shown = repr(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            walk.problem(path, "key", f"a field's name must be text; {shown} is not (quote it?)", key_node)
            continue
        key = _scalar(key_node, path, walk)
        if key == "<<":
            walk.problem(path, "merge_key", "merge keys (<<) are not read; write the fields out", key_node)
        elif key in result:
            first = walk.lines[(*path, key)]
            walk.problem((*path, key), "duplicate_key", f"is given twice, first on line {first}", key_node)
        else:
            walk.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = _value(value_node, (*path, key), walk)
    return result


def _scalar(node: yaml.ScalarNode, path: Path, walk: _Walk) -> Any:
    text: str = node.value
    name = node.tag.removeprefix(_TAG)
    if name == "str":
        if any("\ud800" <= c <= "\udfff" for c in text):
            try:  # JSON writes a character beyond the first 65,536 as two escapes, which YAML reads one by one
                text = text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                walk.problem(path, "encoding", "holds half a surrogate pair, which is no character", node)
                return None
        if not node.style and _OTHER_IN_YAML_1_1.match(text):
            walk.problem(path, "ambiguous_number", f"{text} means different things to different readers; {_SAY}", node)
            return None
        return text
    if name not in _CORE or not _CORE[name].match(text):
        walk.problem(path, "tag", f"the tag {_tag_name(node)} is not allowed here; only plain values are", node)
        return None
    if name == "null":
        return None
    if name == "bool":
        return text.lower() == "true"
    if _OTHER_IN_YAML_1_1.match(text):
        walk.problem(path, "ambiguous_number", f"{text} means different things to different readers; {_SAY}", node)
        return None
    if name == "int":
        if len(text) > MAX_INT_DIGITS:
            walk.problem(path, "range", f"a number of {len(text)} digits", node)
            return None
        return int(text)
    number = (
        float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1].isdigit() or text[-1] == "." else math.inf
    )
    if not math.isfinite(number):
        walk.problem(path, "range", f"{text} is not a finite number", node)
        return None
    return number


_SAY = "write it in plain decimal, or in quotes if it is text"


def _tag_name(node: yaml.Node) -> str:
    return str(node.tag).replace(_TAG, "!!")
