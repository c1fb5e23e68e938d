"""Which test files import torch and what comes with it, found by reading their imports; where it is missing, they are skipped.

Only imports at the top of a module count. A test that needs torch inside a function asks for it with `pytest.importorskip`.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "nnsight", "accelerate", "gguf", "datasets", "sae_lens")
MISSING = tuple(name for name in HEAVY if find_spec(name) is None)


class SkippedFile(pytest.File):
    """A test file, or a folder with its conftest, that is skipped and says why."""

    why: str = ""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(self.why, allow_module_level=True)


def skipped(path: Path, parent: pytest.Collector, names: tuple[str, ...] = MISSING) -> SkippedFile | None:
    """What stands for the test file or folder `path` where its imports need a module of `names`; None where they do not."""
    module = path / "conftest.py" if path.is_dir() else path
    chain = chain_to(names, module) if names and module.is_file() else None
    if chain is None:
        return None
    node: SkippedFile = SkippedFile.from_parent(parent, path=path)
    node.why = f"{chain[-1]} is not installed: {' -> '.join(chain)}"
    return node


def chain_to(names: tuple[str, ...], path: Path) -> tuple[str, ...] | None:
    """The modules from the file `path` to the first of `names` that importing it would import, or None."""
    seen, todo = {path}, [(path, (_dotted(path),))]
    while todo:
        module, chain = todo.pop(0)
        for imported in _imports(module):
            if imported.split(".")[0] in names:
                return (*chain, imported.split(".")[0])
            for file in _files(imported):
                if file not in seen:
                    seen.add(file)
                    todo.append((file, (*chain, _dotted(file))))
    return None


def _dotted(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _files(module: str) -> tuple[Path, ...]:
    """The files of the repository that `import module` runs: each package on the way, then the module."""
    parts = module.split(".")
    if parts[0] not in ("steercache", "tests", "bench"):
        return ()
    places = [REPOSITORY.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return tuple(file for file in files if file.is_file())


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """The modules that the file imports when it is imported itself, in its order."""
    return tuple(_imported(ast.parse(path.read_text()).body))


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield module
                yield from (f"{module}.{name.name}" for name in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING" | "_TYPE_CHECKING"), orelse=orelse):
                yield from _imported(orelse)
            case ast.If() | ast.Try() | ast.With():
                yield from _imported(
                    [child for child in ast.walk(statement) if isinstance(child, (ast.Import, ast.ImportFrom))]
                )
            case _:
                pass
