"""Errors that hold no connection.

A traceback keeps the locals of its frames, and with them DuckDB's objects: an error caught in a notebook would keep the index
file held, and one that ends the process would leave objects behind that DuckDB's binding complains about on stderr.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def clear_traceback_frames() -> Iterator[None]:
    """Clear the frames that an error left behind it, and those of what caused it, as it passes."""
    try:
        yield
    except Exception as error:
        link: BaseException | None = error
        while link is not None:
            traceback.clear_frames(link.__traceback__)
            link = link.__cause__ or link.__context__
        raise
