"""The small working folder of the command line's tests."""

from tests.cli.conftest import built_once, work

__all__ = ["built_once", "work"]
