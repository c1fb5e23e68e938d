"""Run the example notebooks without Jupyter, keep their outputs, and show them as Markdown.

python docs/examples/notebooks.py            # run all, and write the outputs into the files
python docs/examples/notebooks.py NAME ...   # run some, such as text-steering

The cells of a notebook run in order in one namespace, in an empty folder. What is printed and the value of a cell's last
expression are its output, as in Jupyter. `generate.py` shows the notebooks on the site, `tests/docs` run them.
"""

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
Notebook = dict[str, Any]


def names() -> list[str]:
    """Names of the notebooks, without suffix."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> Notebook:
    """A notebook as its JSON document (nbformat 4)."""
    document: Notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return document


def write(name: str, notebook: Notebook) -> None:
    """Save a notebook with the formatting that Jupyter uses."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    (FOLDER / f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")


def source_of(cell: Mapping[str, Any]) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def run(notebook: Notebook, folder: Path, *, settings: Mapping[str, object] | None = None) -> Notebook:
    """The notebook with the outputs of a run in `folder`.

    `settings` replaces constants that the first code cell assigns, so that a test can take a smaller model.

    Raises:
        KeyError: a setting that the first code cell does not assign. Whatever a cell raises.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    done = json.loads(json.dumps(notebook))
    todo = dict(settings or {})
    with _inside(folder):
        n_run = 0
        for cell in done["cells"]:
            if cell["cell_type"] != "code":
                continue
            cell["outputs"], n_run = _outputs(source_of(cell), namespace, n_run + 1), n_run + 1
            cell["execution_count"] = n_run
            if n_run == 1 and todo:
                if missing := set(todo) - set(namespace):
                    raise KeyError(f"the first cell does not assign {', '.join(sorted(missing))}")
                namespace |= todo
    return done


def _outputs(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), namespace)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data = {"text/html": _lines(value._repr_html_())} | data
        found.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def as_markdown(name: str) -> str:
    """A notebook with its outputs as a page of the site."""
    parts = []
    for cell in read(name)["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(source_of(cell))
            continue
        parts.append(f"```python\n{source_of(cell)}\n```")
        for output in cell["outputs"]:
            text = "".join(output["text"] if "text" in output else output["data"]["text/plain"])
            parts.append(f'```text title="Output"\n{text.rstrip()}\n```')
    title, *rest = parts
    note = f"[Download this notebook]({name}.ipynb). The tests run it; its outputs are those of a two-core CPU."
    return "\n\n".join([title, note, *rest])


if __name__ == "__main__":
    for name in sys.argv[1:] or names():
        with tempfile.TemporaryDirectory() as folder:
            write(name, run(read(name), Path(folder)))
        print(name)
