"""What fields of every kind of manifest share: strictness, names, file names, and the way a check reports its kind."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,79}$"
MAX_COUNT = 2**40  # more than any count of rows, tokens or samples that makes sense


class Document(BaseModel):
    """Frozen and strict; unknown fields are refused."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def fault(kind: str, message: str) -> PydanticCustomError:
    """An error for a validator to raise; `kind` ends up in `Problem.kind`."""
    return PydanticCustomError("steercache", "{reason}", {"kind": kind, "reason": message})


def _file_name(value: str) -> str:
    if "\0" in value or "\n" in value or not value.strip():
        raise fault("path", "not the name of a file")
    return value


def refuse_outside(value: str, folder: str) -> str:
    """Refuse a path that leaves the folder it is relative to."""
    parts = re.split(r"[\\/]", value)
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise fault("path", f"must stay inside {folder}: no `..`, not absolute")
    return value


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a value that stands twice."""
    again = sorted({str(v) for i, v in enumerate(values) if v in values[:i]})
    if again:
        raise fault("duplicate", f"listed more than once: {', '.join(again)}")
    return values


def _not_true(value: Any) -> Any:
    if isinstance(value, bool):  # Python holds True equal to 1
        raise fault("choice", "must be the number 1")
    return value


Version = Annotated[Literal[1], BeforeValidator(_not_true)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, description="Lower-case letters, digits, `.`, `_` and `-`.")]
FileName = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_file_name)]
HubId = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$", description="`owner/name`."),
]
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$", description="Branch, tag or commit.")]
Text = Annotated[str, Field(min_length=1)]
Column = Annotated[str, Field(min_length=1, max_length=256)]
QUESTION_FILES: Final = (".jsonl", ".csv", ".parquet")


def _benchmark(value: Any) -> Any:
    """A file of questions may stand as `{path: FILE}`."""
    return value["path"] if isinstance(value, dict) and value.keys() == {"path"} else value


def _name_or_file(value: str) -> str:
    if value.lower().endswith(QUESTION_FILES):
        return _file_name(value)
    if not re.match(NAME_PATTERN, value):
        raise fault("name", "a benchmark's name, or a file of questions that ends in .jsonl, .csv or .parquet")
    return value


BenchmarkName = Annotated[
    str,
    Field(min_length=1, max_length=4096),
    AfterValidator(_name_or_file),
    BeforeValidator(_benchmark),
    WithJsonSchema(
        {
            "description": "A benchmark's name, or a .jsonl, .csv or .parquet file of questions.",
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 4096},
                {
                    "type": "object",
                    "properties": {"path": {"type": "string", "minLength": 1, "maxLength": 4096}},
                    "required": ["path"],
                    "additionalProperties": False,
                },
            ],
        }
    ),
]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
