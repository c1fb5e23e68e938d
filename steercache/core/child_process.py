"""What a child process of ours is started with."""

import os
import sys
from collections.abc import Mapping


def module_command(module: str, *words: str) -> list[str]:
    """The command that runs one of our modules in this Python, without the working directory on its module path."""
    return [sys.executable, "-P", "-m", module, *words]


def child_environment(**variables: str) -> Mapping[str, str]:
    """This process's environment and `variables`; the child finds modules where this process does, and nowhere else."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    return {**os.environ, **variables, "PYTHONPATH": paths}
