"""Creating a generation's folder and reading what it says about itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.layout import LOSSY_CODECS, CodecName, StoreLayout
from steercache.store import durable
from steercache.store.documents import layout_from_json
from steercache.store.metadata import (
    FORMAT_VERSION,
    RESERVED,
    array_documents,
    document_bytes,
    group_document,
    layer_dimension,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationInfo:
    """What a generation's group says: its layout, codec, whether every shard is there, and all attributes."""

    layout: StoreLayout
    codec: CodecName
    complete: bool
    attributes: Mapping[str, Any]

    @property
    def lossy(self) -> bool:
        """Whether values differ from those the model computed."""
        return self.codec in LOSSY_CODECS


def create_generation(
    path: Path, layout: StoreLayout, *, attributes: Mapping[str, Any], codec: CodecName = "raw"
) -> None:
    """Make the folder `path` a Zarr group with an array per site and coordinate, durably; again does nothing.

    The group's own document is written last: where it is, everything else is.

    Raises:
        UsageError: `attributes` uses a name of ours. DamagedError: another layout or codec is there already.
    """
    if taken := sorted(set(attributes) & set(RESERVED)):
        raise UsageError(f"these attribute names belong to the store: {', '.join(taken)}", place=str(path))
    wanted = group_document(layout, codec, attributes)
    if (path / "zarr.json").exists():
        info = read_generation(path)
        if info.layout != layout or info.codec != codec:
            raise DamagedError("a generation of another layout is there", place=str(path), hint="steercache cache gc")
        durable.settle(path / "zarr.json")
        return
    files = {path / name: data for name, data in generation_files(layout, codec).items()}
    durable.make_folder(*dict.fromkeys(file.parent for file in files))
    durable.publish([(durable.write_temporary(file, data), file) for file, data in files.items()])
    durable.write_file_atomically(path / "zarr.json", document_bytes(wanted))


def generation_files(layout: StoreLayout, codec: CodecName) -> dict[str, bytes]:
    """What a generation has before its first shard, by path inside it: array metadata and the layers' numbers."""
    files = {f"{name}/zarr.json": document_bytes(document) for name, document in array_documents(layout, codec).items()}
    for site in layout.sites:
        if site.layers:
            files[f"{layer_dimension(layout, site)}/c.0"] = np.asarray(site.layers, dtype="<i4").tobytes()
    return files


def read_generation(path: Path) -> GenerationInfo:
    """What the group at `path` says about itself.

    Raises:
        NotFoundError: there is none. DamagedError: it is not one of ours, or of a newer version.
    """
    document = _read_group(path)
    place = str(path / "zarr.json")
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or type(attributes.get("steercache_format")) is not int:
        raise DamagedError("not a group that steercache wrote", place=place, hint="steercache cache verify")
    if attributes["steercache_format"] > FORMAT_VERSION:
        raise DamagedError(
            f"written in format {attributes['steercache_format']}, this version reads up to {FORMAT_VERSION}",
            place=place,
            hint="pip install --upgrade steercache",
        )
    codec: Any = attributes.get("codec")
    complete = attributes.get("complete")
    if codec not in get_args(CodecName) or type(complete) is not bool:
        raise DamagedError(f"unknown codec {codec!r}", place=place, hint="steercache cache verify")
    layout = layout_from_json(attributes.get("layout"), place)
    return GenerationInfo(layout=layout, codec=codec, complete=complete, attributes=attributes)


def set_complete(path: Path, complete: bool) -> None:
    """Record whether every shard of the generation at `path` is there."""
    update_attributes(path, {"complete": complete})


def update_attributes(path: Path, changes: Mapping[str, Any]) -> None:
    """Change attributes of the group at `path`, durably; nothing is written where nothing changes."""
    document = _read_group(path)
    attributes = {**document["attributes"], **changes}
    if attributes != document["attributes"]:
        durable.write_file_atomically(path / "zarr.json", document_bytes({**document, "attributes": attributes}))
    else:
        durable.settle(path / "zarr.json")


def _read_group(path: Path) -> Any:
    try:
        with durable.disk_errors(path, doing="read"):
            return json.loads((path / "zarr.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("there is no generation", place=str(path), hint="steercache cache status") from error
    except (ValueError, RecursionError) as error:
        place = str(path / "zarr.json")
        raise DamagedError(f"not JSON: {error}", place=place, hint="steercache cache verify") from error
