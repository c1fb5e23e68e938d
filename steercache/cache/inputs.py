"""Inputs that were given in Python, not in a file: kept below the root, so that their run can be built again."""

from pathlib import Path

from steercache.store.durable import make_folder, write_file_atomically


def save_input(path: Path, data: bytes) -> None:
    """Keep `data` as the file `path`, durably; a file that is there already is left alone (its name says its content)."""
    if not path.exists():
        make_folder(path.parent)
        write_file_atomically(path, data)
