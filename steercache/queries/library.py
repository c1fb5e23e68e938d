"""Query files: a header in YAML inside the leading SQL comments, checked strictly, and the SELECT below it.

-- name: anchor_vs_control
-- kind: selection
-- summary: Anchor tokens of a concept against the control tokens of the same sentences.
-- params:
--   concept: {type: text, help: concept whose sentences are taken}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
SELECT ...
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from steercache.core.errors import ManifestError, NotFoundError, Problem, QueryError
from steercache.core.excerpts import excerpt
from steercache.core.shipped import shipped_folder
from steercache.manifests.tree import read_tree

Kind = Literal["selection", "table", "check"]
ParamType = Literal["text", "integer", "number", "boolean", "run", "vector", "sae", "concept"]
NEWEST = {"newest": None, "newest_text": "text", "newest_multimodal": "multimodal"}  # default of a run: its modality
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_Line = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_SELECTION_COLUMNS = frozenset({"run_id", "row_idx", "label", "pair", "weight"})
MAX_FILE_BYTES = 1024 * 1024  # several times the longest SQL that is run


class Param(BaseModel):
    """One parameter; without `default` a value must be given. `default: null` binds NULL."""

    model_config = _STRICT
    type: ParamType
    help: _Line
    default: Any = None
    minimum: int | None = None

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set

    @model_validator(mode="after")
    def _default_fits(self) -> "Param":
        if self.default is None:
            return self
        if self.type == "run" and self.default not in NEWEST:
            raise ValueError(f"default of a run is null or one of {', '.join(NEWEST)}")
        wanted = {"integer": (int,), "number": (int, float), "boolean": (bool,)}.get(self.type, (str,))
        if not isinstance(self.default, wanted) or (isinstance(self.default, bool) and self.type != "boolean"):
            raise ValueError(f"default {excerpt(self.default)} is not {with_article(self.type)}")
        return self


class Query(BaseModel):
    """A query with its header; `text` is the whole file, which is what a vector's provenance keeps."""

    model_config = _STRICT
    name: _Name
    kind: Kind
    summary: _Line
    params: dict[_Name, Param] = Field(default_factory=dict)
    returns: dict[_Name, _Line] = Field(min_length=1)
    text: str
    path: Path | None = None

    @property
    def is_received(self) -> bool:
        """Whether the query is of a file that does not ship with this package."""
        return self.path is not None and self.path.parent != shipped_folder("queries")

    @model_validator(mode="after")
    def _sae_comes_with_run(self) -> "Query":
        n_saes = sum(param.type == "sae" for param in self.params.values())
        run = self.params.get("run")
        if n_saes and (n_saes > 1 or run is None or run.type != "run" or run.default is not None or run.required):
            raise ValueError(
                "a query with an SAE has one SAE parameter, and a parameter `run` of type run, null by default"
            )
        return self

    @model_validator(mode="after")
    def _selection_returns_rows(self) -> "Query":
        if self.kind == "selection" and not {"run_id", "row_idx"} <= self.returns.keys() <= _SELECTION_COLUMNS:
            raise ValueError("a selection returns run_id, row_idx and optionally label, pair and weight")
        return self


def with_article(word: str) -> str:
    """A noun after its article.

    >>> with_article("integer"), with_article("number")
    ('an integer', 'a number')
    """
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def parse_query(text: str, *, place: str, path: Path | None = None) -> Query:
    """Read a query file's text.

    Raises:
        QueryError: the header is missing or wrong; names every problem.
    """
    header = yaml_header(text)
    if header is None:
        raise QueryError("the file has no header", place=place, hint="begin it with `-- name: ...`")
    fields = _read_header(header, place)
    taken = sorted({"text", "path"} & fields.keys())
    if taken:
        raise QueryError(f"the header has unknown keys: {', '.join(taken)}", place=place)
    try:
        query = Query.model_validate({**fields, "text": text, "path": path})
    except (ValidationError, TypeError) as error:
        raise QueryError(
            _problems(error), place=place, hint="see a shipped query, such as anchor_vs_control"
        ) from error
    if path is not None and path.stem != query.name:
        raise QueryError(f"the file is named {path.stem!r}, its header says {query.name!r}", place=place)
    return query


def _read_header(header: str, place: str) -> Mapping[str, Any]:
    """The fields of a header, by the same bounded reader as manifests. Raises QueryError with every problem."""
    try:
        tree = read_tree(header, file=place)
    except ManifestError as error:
        raise _header_error("the header is no YAML", error.problems, place) from None
    if tree.problems:
        raise _header_error("the header is wrong", tree.problems, place)
    if not isinstance(tree.value, dict):
        raise QueryError("the header is no YAML mapping", place=place, hint="begin it with `-- name: ...`")
    return tree.value


def _header_error(what: str, problems: Sequence[Problem], place: str) -> QueryError:
    found = [f"{problem.loc or 'header'}: {problem.message}" for problem in problems]
    return QueryError(f"{what}: " + "; ".join(found), place=place)


def yaml_header(text: str) -> str | None:
    """The leading comment lines without their dashes; None when the first line (blank ones aside) begins no header."""
    lines = []
    for line in dropwhile(lambda line: not line.strip(), text.splitlines()):
        if not line.startswith("--"):
            break
        lines.append(line[2:].removeprefix(" "))
    return "\n".join(lines) if lines and lines[0].startswith("name:") else None


def load_library(folders: Iterable[Path] = ()) -> dict[str, Query]:
    """The shipped queries and those of `folders`, by name; a later folder's query takes the place of an earlier one's.

    Raises:
        QueryError: a file's header is wrong.
        NotFoundError: a folder is not there.
    """
    found: dict[str, Query] = {}
    for folder in (shipped_folder("queries"), *folders):
        if not folder.is_dir():
            raise NotFoundError("no such folder of queries", place=str(folder))
        for path in sorted(folder.glob("*.sql")):
            query = read_query(path)
            found[query.name] = query
    return found


def read_query(path: Path) -> Query:
    """One query file. Raises QueryError, NotFoundError."""
    return parse_query(read_sql(path), place=str(path), path=path)


def read_sql(path: Path) -> str:
    """The text of a SQL file. Raises NotFoundError, QueryError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise QueryError(f"more than {MAX_FILE_BYTES // 1024} KiB: this is no query", place=str(path))
        return data.decode("utf-8-sig")  # some editors begin with a BOM, which would hide the header
    except FileNotFoundError as error:
        raise NotFoundError("no such file", place=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"not a readable SQL file: {error}", place=str(path)) from error


def find_query(library: Mapping[str, Query], name: str) -> Query:
    """The query of that name. Raises NotFoundError with names that are close."""
    if name in library:
        return library[name]
    close = difflib.get_close_matches(name, library, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "list the named queries first"
    raise NotFoundError(f"no query named {name!r}", hint=hint)


def looks_like_name(text: str) -> bool:
    """Whether `text` can only be a query's name: one plain word."""
    word = text.strip()
    return bool(word) and word.replace("_", "").replace("-", "").isalnum()


def _problems(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):  # a key that is no text
        return f"the header is wrong: {error}"
    found = [f"{'.'.join(map(str, e['loc'])) or 'header'}: {e['msg']}" for e in error.errors()]
    return "the header is wrong: " + "; ".join(found)
