"""What pydantic found wrong, as problems with a stable kind, the place in the file, and a reason that helps."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from steercache.core.errors import Problem
from steercache.manifests.tree import Path, Tree, dotted

MAX_PROBLEMS = 100  # of one document; more help nobody

_KINDS = {
    "missing": "missing",
    "extra_forbidden": "unknown_field",
    "literal_error": "choice",
    "union_tag_invalid": "choice",
    "union_tag_not_found": "missing",
    "string_pattern_mismatch": "pattern",
    "string_too_short": "length",
    "string_too_long": "length",
    "too_short": "length",
    "too_long": "length",
    "greater_than_equal": "range",
    "less_than_equal": "range",
    "greater_than": "range",
    "less_than": "range",
}
_UNION_FIELDS = (
    "source",
    "model",
    "layers",
)  # below these pydantic's place has one word more: the form that was chosen
_YAML_1_1_WORDS = ("yes", "no", "on", "off", "y", "n")


def close_match(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for the nearest known word, or nothing.

    >>> close_match("lyers", ["layers", "sites"])
    '; did you mean `layers`?'
    """
    near = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def pydantic_problems(
    error: ValidationError, tree: Tree, *, file: str, document: type[BaseModel]
) -> tuple[list[Problem], int]:
    """The first MAX_PROBLEMS errors by line, and how many there are beyond them; none about what the tree could not read."""
    known = {problem.loc for problem in tree.problems if problem.kind not in ("duplicate_key", "merge_key", "key")}
    placed = [(_plain_path(e["loc"]), dict(e)) for e in error.errors(include_url=False) if not _follows(dict(e))]
    placed = [(path, e) for path, e in placed if dotted(path) not in known]
    placed.sort(key=lambda one: (tree.line(one[0]), dotted(one[0])))
    shown = [_problem(path, e, tree, file, document) for path, e in placed[:MAX_PROBLEMS]]
    return shown, len(placed) - len(shown)


def in_order(problems: Iterable[Problem], *, hidden: int = 0) -> list[Problem]:
    """By line, and at most MAX_PROBLEMS of them, the last saying how many more there are."""
    ordered = sorted(problems, key=lambda p: (p.line or 0, p.loc))
    rest = len(ordered[MAX_PROBLEMS:]) + hidden
    more = [Problem(loc="", kind="more", message=f"and {rest} problems more")] if rest > 0 else []
    return [*ordered[:MAX_PROBLEMS], *more]


def _follows(error: dict[str, Any]) -> bool:
    """A list counts as too short when its items are wrong; those are reported anyway."""
    return bool(error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])


def _problem(path: Path, error: dict[str, Any], tree: Tree, file: str, document: type[BaseModel]) -> Problem:
    type_, context = error["type"], error.get("ctx", {})
    if type_ == "union_tag_not_found":
        path = (*path, "type")
    kind = context["kind"] if type_ == "steercache" else _KINDS.get(type_, "type")
    message = _message(type_, error, context, path, document)
    return Problem(loc=dotted(path), kind=kind, message=message, file=file, line=tree.line(path))


def _plain_path(loc: tuple[str | int, ...]) -> Path:
    """Pydantic's place without the words that name a union's branch."""
    path: list[str | int] = []
    parts = iter(loc)
    for part in parts:
        path.append(part)
        of_part = part == "target" and "parts" in path  # of a combination of vectors
        if part in _UNION_FIELDS or of_part or (isinstance(part, int) and path[-2:-1] in (["datasets"], ["targets"])):
            next(parts, None)
    return tuple(path)


def _message(type_: str, error: dict[str, Any], context: dict[str, Any], path: Path, document: type[BaseModel]) -> str:
    given = error["input"]
    if type_ == "steercache":
        return str(context["reason"])
    if type_ == "missing" or type_ == "union_tag_not_found":
        return "is missing"
    if type_ == "extra_forbidden":
        return f"is not a field{_field_hint(str(path[-1]), document)}"
    if type_ in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        choices = [choice.strip(" '\"") for choice in expected.replace(" or ", ", ").split(",")]
        shown = given.get("type") if type_ == "union_tag_invalid" and isinstance(given, dict) else given
        return f"{_shown(shown)} is not one of {', '.join(choices)}{_literal_hint(shown, choices)}"
    if type_ in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if type_ == "too_short" else f"at most {context['max_length']}"
        return f"needs {bound} items, not {len(given)}"
    message = error["msg"].removeprefix("Input ").removeprefix("String ")
    return f"{message}, not {_shown(given)}{_type_hint(type_, given)}"


def _literal_hint(given: Any, choices: list[str]) -> str:
    return close_match(given, choices) if isinstance(given, str) else ""


def _type_hint(type_: str, given: Any) -> str:
    if type_.startswith("bool") and isinstance(given, str) and given.lower() in _YAML_1_1_WORDS:
        return "; write true or false"
    if type_ == "string_type" and isinstance(given, bool | int | float):
        return "; put it in quotes"
    if type_.startswith(("int", "float")) and isinstance(given, str):
        return "; take the quotes off" if given.replace(".", "", 1).isdigit() else ""
    return ""


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."


def _field_hint(word: str, document: type[BaseModel]) -> str:
    """Where else the document has this field, or the nearest word that is one."""
    places = field_places(document)
    if word not in places:
        return close_match(word, places)
    return f" here; it belongs in {' or '.join(f'`{p}`' if p else 'the document itself' for p in places[word])}"


def field_places(document: type[BaseModel]) -> dict[str, list[str]]:
    """Every field of a document and of what is inside it, with the dotted places of the mappings that have it.

    The document's own place is "".
    """
    found: dict[str, list[str]] = {}
    _collect(document, "", found, seen=set())
    return found


def _collect(annotation: Any, place: str, found: dict[str, list[str]], *, seen: set[tuple[str, Any]]) -> None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if (place, annotation) in seen:
            return
        seen.add((place, annotation))
        for name, info in annotation.model_fields.items():
            places = found.setdefault(name, [])
            if place not in places:
                places.append(place)
            _collect(info.annotation, f"{place}.{name}".strip("."), found, seen=seen)
    for argument in getattr(annotation, "__args__", ()):
        _collect(argument, place, found, seen=seen)
