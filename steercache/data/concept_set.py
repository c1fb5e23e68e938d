"""The eight concepts that ship with the package: 20 sentences each, with the word or phrase that carries the concept."""

from collections.abc import Sequence
from pathlib import Path

from steercache.core.errors import NotFoundError
from steercache.data.lines import jsonl_rows
from steercache.data.rows import Rows

FOLDER = Path(__file__).resolve().parent / "concepts"


def concept_rows(concepts: Sequence[str]) -> Rows:
    """Rows of columns `text`, `anchor` and `concept`, concept after concept in the given order.

    Raises:
        NotFoundError: the installation lacks a concept's file.
    """
    for concept in concepts:
        path = FOLDER / f"{concept}.jsonl"
        if not path.is_file():
            raise NotFoundError(
                f"the sentences for {concept!r} are missing from this installation",
                hint="pip install --force-reinstall steercache",
            )
        yield from jsonl_rows(path, path.name)
