"""Standard streams as the program finds them: closed, full, without a reader, or in an encoding that lacks a character.

Results that cannot be written to stdout are an error. Messages that cannot be written to stderr are dropped, and the work
continues.
"""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import click


def open_streams() -> None:
    """Make all three standard streams usable; called once, before anything else opens a file.

    A closed descriptor is opened on the null device: the next file that is opened would take its number otherwise, and what a
    library prints would be written into that file. A character that the encoding lacks, half a surrogate pair included, is
    written as its escape.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, **style: Any) -> None:
    """Write a line to stderr; a failure to write is ignored."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):  # ValueError: the stream was closed
        click.secho(text.encode(encoding, "backslashreplace").decode(encoding), err=True, **style)


def drop_stdout() -> None:
    """Send what is still buffered for stdout to the null device: its reader has gone."""
    with suppress(OSError, ValueError):  # ValueError: a stdout without descriptor, as under a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_unicode(stream: Any) -> bool:
    """Whether a text stream can take every character; one that does not tell can."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")
