"""Every state that a disk can be in when the power fails between recorded operations: what a commit must recover from.

An operating system keeps less than it seems: bytes are safe only after the file's fsync, names only after the folder's. The
models below are the corners of what may happen in between; a protocol that survives all of them at every moment trusts
nothing but fsync. Used with `durable.record_operations` by tests of code that commits files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from steercache.store.durable import Operation

DiskModel = Literal[
    "ordered",  # everything that was done arrived: a killed process
    "torn",  # as before, but of the last write only the first half
    "synced",  # only what an fsync of file and folder promised
    "names_first",  # names arrived at once, bytes only by fsync: files that are there but empty or old
]
DISK_MODELS: tuple[DiskModel, ...] = ("ordered", "torn", "synced", "names_first")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskState:
    """The files and folders found after the power came back, `n_operations` having been begun."""

    n_operations: int
    model: DiskModel
    files: Mapping[Path, bytes]
    folders: frozenset[Path]

    def build(self, root: Path, target: Path) -> None:
        """Write what lay below `root` to the empty folder `target`."""
        for folder in sorted(f for f in self.folders if f.is_relative_to(root)):
            (target / folder.relative_to(root)).mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            if path.is_relative_to(root):
                copy = target / path.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(data)


@dataclass(slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[offset:end] = data


class _Disk:
    def __init__(self, before: Mapping[Path, bytes]) -> None:
        self.names = {path: _File(bytearray(data), data) for path, data in before.items()}
        self.safe_names = dict(self.names)
        self.folders = {parent for path in before for parent in path.parents}
        self.safe_folders = set(self.folders)

    def apply(self, operation: Operation) -> None:
        path = operation.path
        match operation.kind:
            case "make_folder":
                self.folders.add(path)
            case "create":
                self.names[path] = _File()
            case "reserve":
                self.names[path].write(operation.offset, b"")
            case "write":
                self.names[path].write(operation.offset, operation.data)
            case "fsync":
                self.names[path].synced = bytes(self.names[path].content)
            case "rename" if operation.target is not None:
                self.names[operation.target] = self.names.pop(path)
            case "remove":
                self.names.pop(path, None)
            case "fsync_folder":
                self._keep_names(path)

    def _keep_names(self, folder: Path) -> None:
        kept = {path: file for path, file in self.safe_names.items() if path.parent != folder}
        self.safe_names = kept | {path: file for path, file in self.names.items() if path.parent == folder}
        self.safe_folders |= {f for f in self.folders if f.parent == folder}

    def state(self, n_operations: int, model: DiskModel) -> DiskState:
        by_fsync = model == "synced"
        names = self.safe_names if by_fsync else self.names
        folders = self.safe_folders if by_fsync else self.folders
        lost = [f for f in self.folders if f not in folders]
        files = {
            path: file.synced if model in ("synced", "names_first") else bytes(file.content)
            for path, file in names.items()
            if not any(folder in path.parents for folder in lost)
        }
        reached = frozenset(f for f in folders if not any(folder in f.parents for folder in lost))
        return DiskState(n_operations=n_operations, model=model, files=files, folders=reached)


def crash_states(operations: Sequence[Operation], before: Mapping[Path, bytes]) -> Iterator[DiskState]:
    """Every state after none, one, ... all of the operations, under every model; `before` lay safely on the disk."""
    disk = _Disk(before)
    for n_operations, operation in enumerate([None, *operations]):
        if operation is not None:
            if operation.kind == "write":
                disk.apply(_half(operation))
                yield disk.state(n_operations, "torn")
            disk.apply(operation)
        for model in ("ordered", "synced", "names_first"):
            yield disk.state(n_operations, model)


def read_files(root: Path) -> dict[Path, bytes]:
    """All files below `root`: the state before a recording begins."""
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _half(operation: Operation) -> Operation:
    return Operation(
        kind="write", path=operation.path, offset=operation.offset, data=operation.data[: len(operation.data) // 2]
    )
