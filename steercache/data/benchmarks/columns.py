"""Which columns a set must have and of what type; every missing or wrong one is named at once."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import pyarrow as pa

from steercache.core.errors import ManifestError, Problem


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_picture(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return {"bytes", "path"} <= set(fields) and _is_binary(fields["bytes"]) and _is_text(fields["path"])


CHECKS: Final[Mapping[str, Callable[[pa.DataType], bool]]] = MappingProxyType(
    {
        "text": _is_text,
        "integer": lambda kind: bool(pa.types.is_integer(kind)),
        "integer or text": lambda kind: bool(pa.types.is_integer(kind)) or _is_text(kind),
        "list of texts": lambda kind: _is_list(kind) and _is_text(kind.value_type),
        "picture {bytes, path}": _is_picture,
        "picture {bytes, path} or a list of them": lambda kind: (
            _is_picture(kind) or (_is_list(kind) and _is_picture(kind.value_type))
        ),
    }
)
PICTURE: Final = "picture {bytes, path}"
PICTURES: Final = "picture {bytes, path} or a list of them"


def check_columns(schema: pa.Schema, wanted: Mapping[str, str], *, place: str) -> None:
    """Hold a file's columns against `wanted`, a mapping of column name to a name in CHECKS.

    Raises:
        ManifestError: a column is missing or of another type; every one is listed.
    """
    problems = []
    for name, kind in wanted.items():
        if name not in schema.names:
            message = f"this column is missing (wanted: {kind}); the file has: {', '.join(schema.names)}"
            problems.append(Problem(loc=name, kind="missing_column", message=message))
        elif schema.names.count(name) > 1:
            problems.append(Problem(loc=name, kind="column_twice", message="the file has this column more than once"))
        elif not CHECKS[kind](schema.field(name).type):
            message = f"wanted {kind}, found {schema.field(name).type}"
            problems.append(Problem(loc=name, kind="wrong_type", message=message))
    if problems:
        raise ManifestError(
            f"{len(problems)} column(s) are missing or of another type",
            problems=problems,
            place=place,
            hint="download the set again: its layout is checked against the one on the hub",
        )
