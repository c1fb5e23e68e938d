"""The `zarr.json` documents of a generation: plain dicts, written without the zarr library so that opening needs none."""

from collections.abc import Mapping
from typing import Any

from steercache.core.ids import canonical_json
from steercache.core.layout import LOSSY_CODECS, CodecName, DType, SiteLayout, StoreLayout
from steercache.store.documents import layout_to_json
from steercache.store.dtypes import numpy_dtype

FORMAT_VERSION = 1
COORDINATES = ("sample_idx", "position", "token_id")
RESERVED = ("steercache_format", "layout", "codec", "lossy", "complete", "codec_error")

PCODEC_LEVEL = 8

_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


def blosc_settings(typesize: int) -> dict[str, Any]:
    """The configuration of Zarr's blosc codec for items of `typesize` bytes: zstd, after a byte shuffle if there is one."""
    shuffle = "shuffle" if typesize > 1 else "noshuffle"
    return {"cname": "zstd", "clevel": 5, "shuffle": shuffle, "typesize": typesize, "blocksize": 0}


def _inner_codecs(codec: CodecName, dtype: DType) -> list[dict[str, Any]]:
    blosc = {"name": "blosc", "configuration": blosc_settings(numpy_dtype(dtype).itemsize)}
    codecs: dict[CodecName, list[dict[str, Any]]] = {
        "raw": [_LITTLE_ENDIAN],
        "blosc": [_LITTLE_ENDIAN, blosc],
        "pcodec": [{"name": "steercache.pcodec", "configuration": {"level": PCODEC_LEVEL}}],
        "int8": [
            {"name": "steercache.int8"},
            {"name": "blosc", "configuration": blosc_settings(1)},
        ],
    }
    return codecs[codec]


def _array(shape: list[int], chunk_shape: list[int], names: list[str]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "dimension_names": names,
        "attributes": {},
    }


def layer_dimension(layout: StoreLayout, site: SiteLayout) -> str:
    """The name of a site's layer axis: `layer`, or `layer_<site>` where it differs from the first site's."""
    return "layer" if site.layers == layout.sites[0].layers else f"layer_{site.site}"


def _hidden_dimension(layout: StoreLayout, site: SiteLayout) -> str:
    return "hidden" if site.width == layout.sites[0].width else f"hidden_{site.site}"


def _site_array(layout: StoreLayout, site: SiteLayout, codec: CodecName) -> dict[str, Any]:
    n_layers = len(site.layers)
    names = [layer_dimension(layout, site), "row", _hidden_dimension(layout, site)]
    sharding = {
        "chunk_shape": [1, layout.chunk_rows, site.width],
        "codecs": _inner_codecs(codec, layout.dtype),
        "index_codecs": [_LITTLE_ENDIAN, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        **_array([n_layers, layout.n_slots, site.width], [n_layers, layout.rows_per_shard, site.width], names),
        "data_type": layout.dtype,
        "fill_value": "NaN",
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {"coordinates": " ".join(COORDINATES)},  # CF: xarray makes these coordinates of the variable
    }


def _int32_array(length: int, chunk: int, dimension: str, fill: int) -> dict[str, Any]:
    integers = {"data_type": "int32", "fill_value": fill, "codecs": [_LITTLE_ENDIAN]}
    return {**_array([length], [chunk], [dimension]), **integers}


def array_documents(layout: StoreLayout, codec: CodecName) -> dict[str, dict[str, Any]]:
    """The metadata of every array of a generation, by name."""
    documents: dict[str, dict[str, Any]] = {site.site: _site_array(layout, site, codec) for site in layout.sites}
    for site in layout.sites:
        name = layer_dimension(layout, site)
        documents[name] = _int32_array(len(site.layers), max(1, len(site.layers)), name, -1)
    for name in COORDINATES:
        documents[name] = _int32_array(layout.n_slots, layout.rows_per_shard, "row", -1)
    return documents


def group_document(layout: StoreLayout, codec: CodecName, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a generation's group: what it is, whether it is complete, and the caller's own attributes."""
    own = {
        "steercache_format": FORMAT_VERSION,
        "layout": layout_to_json(layout),
        "codec": codec,
        "lossy": codec in LOSSY_CODECS,
        "complete": False,
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": {**attributes, **own}}


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """A metadata document as bytes: the same document gives the same bytes."""
    return canonical_json(document) + b"\n"
