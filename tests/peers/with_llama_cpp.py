"""Run by the peers' environment: llama.cpp's own loader of control vectors and its own forward pass, from xllamacpp's wheel.

python with_llama_cpp.py MODEL_GGUF JOBS_JSON OUT_NPZ; jobs: [name, control vector file or null, token ids]

xllamacpp's Python has no control vectors, but its library exports llama.cpp's functions. Parameter structures are opaque here:
larger than llama.cpp's, which is harmless on x86-64, where they are passed and returned in memory.
"""

import ctypes as c
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

pointer = c.c_void_p


class Parameters(c.Structure):
    _fields_ = (("words", c.c_uint64 * 128),)


class Batch(c.Structure):
    _fields_ = (("words", c.c_uint64 * 7),)


class LoadInfo(c.Structure):
    """`common_control_vector_load_info`: strength, and a std::string of the older ABI: one pointer to its characters."""

    _fields_ = (("strength", c.c_float), ("name", pointer))


class Vector(c.Structure):
    """std::vector."""

    _fields_ = (("begin", pointer), ("end", pointer), ("capacity", pointer))


class ControlVector(c.Structure):
    """`common_control_vector_data`: n_embd, and floats for blocks 1, 2, ..."""

    _fields_ = (("width", c.c_int), ("data", Vector))


def library() -> c.CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.so")
    lib = c.CDLL(str(path))
    for name, result, arguments in (
        ("llama_model_default_params", Parameters, []),
        ("llama_context_default_params", Parameters, []),
        ("llama_model_load_from_file", pointer, [c.c_char_p, Parameters]),
        ("llama_init_from_model", pointer, [pointer, Parameters]),
        ("llama_free", None, [pointer]),
        ("llama_batch_get_one", Batch, [pointer, c.c_int32]),
        ("llama_decode", c.c_int32, [pointer, Batch]),
        ("llama_get_embeddings_ith", c.POINTER(c.c_float), [pointer, c.c_int32]),
        ("llama_set_embeddings", None, [pointer, c.c_bool]),
        ("llama_model_n_embd", c.c_int32, [pointer]),
        ("llama_model_n_layer", c.c_int32, [pointer]),
        ("llama_set_adapter_cvec", c.c_int32, [pointer, pointer, c.c_size_t, c.c_int32, c.c_int32, c.c_int32]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def set_control_vector(lib: c.CDLL, model: int, context: int, path: str) -> None:
    name = path.encode()
    text = c.create_string_buffer(np.array([len(name), len(name), 1], np.uint64).tobytes() + name)
    info = LoadInfo(1.0, c.addressof(text) + 24)
    begin = c.addressof(info)
    load = lib._Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE
    load.restype, load.argtypes = ControlVector, [c.POINTER(Vector)]
    loaded = load(c.byref(Vector(begin, begin + c.sizeof(info), begin + c.sizeof(info))))
    assert loaded.width == lib.llama_model_n_embd(model), "llama.cpp refused the file"
    n = (loaded.data.end - loaded.data.begin) // 4
    n_layers = lib.llama_model_n_layer(model)
    assert lib.llama_set_adapter_cvec(context, loaded.data.begin, n, loaded.width, 1, n_layers) == 0


def hidden(lib: c.CDLL, model: int, control_vector: str | None, ids: list[int]) -> np.ndarray:
    """What the final norm gives for every token, shape (t, d)."""
    context = lib.llama_init_from_model(model, lib.llama_context_default_params())
    lib.llama_set_embeddings(context, True)
    if control_vector is not None:
        set_control_vector(lib, model, context, control_vector)
    tokens = (c.c_int32 * len(ids))(*ids)
    assert lib.llama_decode(context, lib.llama_batch_get_one(c.cast(tokens, pointer), len(ids))) == 0
    width = lib.llama_model_n_embd(model)
    rows = [np.ctypeslib.as_array(lib.llama_get_embeddings_ith(context, at), (width,)).copy() for at in range(len(ids))]
    lib.llama_free(context)
    return np.stack(rows)


lib = library()
lib.llama_backend_init()
model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
jobs = json.loads(Path(sys.argv[2]).read_text())
np.savez(sys.argv[3], **{name: hidden(lib, model, path, ids) for name, path, ids in jobs})
