"""Comparing a committed file with its record, and saying which rows a difference touches."""

from collections.abc import Iterator
from pathlib import Path

from steercache.core.errors import DamagedError, SteercacheError
from steercache.core.layout import FileRecord, SiteLayout, StoreLayout
from steercache.store.checksum import crc32c, extend
from steercache.store.generation import generation_files, read_generation
from steercache.store.geometry import ShardGeometry, shard_geometry, unpack_index
from steercache.store.mapped import Bytes, map_file

_PIECE = 16 * 2**20


def verify_file(run_dir: Path, record: FileRecord) -> list[str]:
    """What is wrong with a committed file: nothing, its size, or which chunks (layer and rows) differ; never raises for damage.

    The file is read once; only where its checksum differs are its chunks looked at one by one.
    """
    try:
        mapped = map_file(run_dir / record.path, record.n_bytes)
    except DamagedError as error:
        return [f"{record.path}: {error.message}"]
    if _whole(mapped) == record.crc32c:
        return []
    return list(_chunks(run_dir, record, mapped)) or [f"{record.path}: the checksum differs"]


def verify_metadata(path: Path) -> list[str]:
    """What is wrong with the documents of the generation at `path` that other Zarr readers need; ours reads only the group's.

    Raises:
        NotFoundError, DamagedError: the group's own document is missing or damaged.
    """
    info = read_generation(path)
    problems = []
    for name, expected in generation_files(info.layout, info.codec).items():
        try:
            found = (path / name).read_bytes()
        except OSError as error:
            problems.append(f"{path.name}/{name}: {error.strerror}")
            continue
        if found != expected:
            problems.append(f"{path.name}/{name}: not what the layout of the group asks for")
    return problems


def _whole(mapped: Bytes) -> int:
    crc = 0
    for start in range(0, len(mapped), _PIECE):  # in pieces, so that Ctrl-C is heard
        crc = extend(crc, mapped[start : start + _PIECE])
    return crc


def _chunks(run_dir: Path, record: FileRecord, mapped: Bytes) -> Iterator[str]:
    found = _site_and_shard(run_dir, record)
    if found is None:
        return
    layout, site, shard_idx = found
    filled = len(record.chunk_crc32c) // max(1, len(site.layers))
    geometry = shard_geometry(layout, site, min(filled * layout.chunk_rows, layout.rows_per_shard))
    index = unpack_index(mapped, geometry)
    if index is None:
        yield f"{record.path}: the chunk index is damaged"
        if read_generation((run_dir / record.path).parent.parent).codec != "raw":
            return  # nothing else says where a compressed chunk lies
        index = geometry.raw_index()
    for number, expected in enumerate(record.chunk_crc32c):
        layer_pos, chunk = divmod(number, filled)
        offset, length = (int(n) for n in index[layer_pos, chunk])
        if crc32c(mapped[offset : offset + length]) != expected:
            yield f"{record.path}: {_where(layout, site, geometry, shard_idx, layer_pos, chunk)} differ"


def _where(
    layout: StoreLayout, site: SiteLayout, geometry: ShardGeometry, shard_idx: int, layer_pos: int, chunk: int
) -> str:
    first = shard_idx * layout.rows_per_shard + chunk * geometry.chunk_rows
    return f"layer {site.layers[layer_pos]}, rows {first} to {first + geometry.chunk_rows - 1}"


def _site_and_shard(run_dir: Path, record: FileRecord) -> tuple[StoreLayout, SiteLayout, int] | None:
    parts = record.path.split("/")
    if not record.chunk_crc32c or len(parts) != 3:
        return None
    try:
        layout = read_generation(run_dir / parts[0]).layout
        return layout, layout.site(parts[1]), int(parts[2].split(".")[2])
    except (SteercacheError, KeyError, ValueError, IndexError):
        return None  # the metadata is damaged too: the file is still named
