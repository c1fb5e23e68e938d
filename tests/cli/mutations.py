"""Damage done to files in ways that people, editors, converters and disks do it; the same for the same seed."""

import json
import random
import struct
from typing import Any

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1,
        3,
        10**9,
        2**63,
        1.5,
        float("inf"),
        "",
        "x",
        "\ud800",
        "a\0b",
        "é",
        [],
        [1],
        ["x"],
        {},
        {"a": 1},
    ),
    *(
        {"type": "nope"},
        {"rope_type": "yarn"},
        "float16",
        "LlamaForCausalLM",
        "gelu",
        [[]],
        "9" * 50,
        "../../etc/passwd",
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, inner in inside:
        found += places(inner, (*path, key))
    return found


def mutated_json(data: bytes, chance: random.Random) -> bytes:
    """A JSON document with one or two values replaced, removed, doubled or moved; sometimes no JSON any more."""
    if chance.random() < 0.15:
        return mutated_bytes(data, chance)
    value = json.loads(data)
    for _ in range(chance.choice((1, 1, 2))):
        all_places = places(value)
        shallow = [place for place in all_places if len(place) <= 2]
        *path, last = chance.choice(shallow if chance.random() < 0.7 and shallow else all_places)
        inside = value
        for key in path:
            inside = inside[key]
        if chance.random() < 0.3:
            del inside[last]
        else:
            inside[last] = chance.choice(VALUES)
        if not value:
            break
    return json.dumps(value).encode()


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes cut short, overwritten, doubled, emptied or filled with zeros."""
    found = bytearray(data)
    kind = chance.randrange(6)
    at = chance.randrange(len(found)) if found else 0
    if kind == 0:
        return bytes(found[:at])
    if kind == 1:
        return chance.choice((b"", b"\0" * 64, b"\xff\xfe", b"null", b"[]", b"{}", b"\x89PNG\r\n\x1a\n", b"<html>"))
    if kind == 2:
        return bytes(found + found[:at])
    for _ in range(chance.choice((1, 3, 20))):
        if found:
            found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found)


def mutated_safetensors(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header says something else; its length is right unless the damage is to the bytes."""
    if chance.random() < 0.3:
        return mutated_bytes(data, chance)
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    name = chance.choice(sorted(header))
    change = chance.randrange(5)
    if change == 0:
        header[f"{name}.extra"] = header.pop(name)
    elif change == 1:
        del header[name]
    elif name == "__metadata__":
        header[name] = chance.choice(VALUES)
    elif change == 2:
        header[name]["dtype"] = chance.choice(("F64", "I8", "BF16", "F8_E4M3", "NOPE", None, 3))
    elif change == 3:
        header[name]["shape"] = chance.choice(([], [0], [-1], [2**40], [1, 2, 3], None, "x"))
    else:
        header[name]["data_offsets"] = chance.choice(([0, 0], [0, 2**50], [5, 1], [-1, 4], None))
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data[8 + n :]
