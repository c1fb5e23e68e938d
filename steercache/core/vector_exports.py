"""The door from a vector to the packages that write it for other tools, which lie above it: they are handed in."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from steercache.core.vector_use import VectorUse

ExportFunction = Callable[..., Any]
_found: list[Callable[[], ExportFunction]] = []


class ExportOptions(TypedDict, total=False):
    """How a vector is written; see `steercache.export_vector`."""

    use: "VectorUse | None"
    layers: Sequence[int] | Literal["all"] | None
    scaled: bool
    blocks: str | None
    overwrite: bool


def exported_by(find: Callable[[], ExportFunction]) -> None:
    """Say how the function that writes vectors is found; it is looked up at the first export."""
    _found[:] = [find]


def export(vector: Any, path: str | PathLike[str], *, to: str | None, options: ExportOptions) -> Any:
    """What `vector.to_gguf` and its siblings do. Raises as `steercache.export_vector`."""
    return _found[0]()(vector, path, to=to, **options)
