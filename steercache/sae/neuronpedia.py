"""Explanations and activations of features from Neuronpedia's exports: local files, read line by line.

Files are JSON (a list of records, or one record) or JSON lines, plain or gzipped, as its export pages and its API give them.
A record names a feature by `modelId`, `layer` (the source, such as 20-gemmascope-res-16k) and `index`; explanations have
`description`, activations have `tokens` and `values`, and a whole feature has lists of both. Other records are passed over.
"""

import gzip
import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import NotFoundError, UsageError
from steercache.core.saes import SaeSpec
from steercache.sae.evidence import Context, Evidence

N_CONTEXTS: Final = 10
AROUND: Final = 240  # characters shown on each side of a token
_LONGEST_LINE: Final = 2**26
_ENDINGS: Final = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_SPACES: Final = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": "\n"})


@dataclass(slots=True)
class _Found:
    explanations: list[str] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)


def read_neuronpedia(path: Path, spec: SaeSpec, features: Collection[int]) -> dict[int, Evidence]:
    """Evidence on some features of one SAE from a file or a folder of exports; features that are not in them are left out.

    The SAE is known by its `neuronpedia_id`; without one, by the layer that begins a record's source.

    Raises:
        NotFoundError: no such file or folder, or no export in it. UsageError: a file that cannot be read, with its line; the
            records are of several SAEs of this layer and the SAE does not say which it is.
    """
    wanted, sources = set(features), set()
    found: dict[int, _Found] = {}
    for file in export_files(path):
        for place, record in _records(file):
            source, feature = _name(record)
            if feature not in wanted or not _is_of(source, spec):
                continue
            sources.add(source)
            _take(record, found.setdefault(feature, _Found()), place)
    if len(sources) > 1:
        raise UsageError(
            f"the exports are of {len(sources)} SAEs of this layer: {', '.join(sorted('/'.join(s) for s in sources)[:5])}",
            place=str(path),
            hint="keep the files of one SAE in the folder",
        )
    assert spec.layer is not None
    return {feature: _evidence(spec.layer, feature, one) for feature, one in sorted(found.items())}


def export_files(path: Path) -> list[Path]:
    """The exports that a path means: itself, or those in the folder, by name. Raises NotFoundError."""
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(_ENDINGS)) if path.is_dir() else []
    if not files:
        raise NotFoundError(
            "no export of Neuronpedia", place=str(path), hint=f"files that end in {', '.join(_ENDINGS)}"
        )
    return files


def _records(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every record of a file with its place; lists, in lines or whole, are taken apart."""
    opener = gzip.open if file.name.endswith(".gz") else open
    lines = ".jsonl" in file.name
    try:
        with opener(file, "rb") as stream:
            if not lines:
                yield from _parsed(stream.read(), str(file))
                return
            number = 0
            while line := stream.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise UsageError("the line is too long for an export", place=f"{file}:{number}")
                if line.strip():
                    yield from _parsed(line, f"{file}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot be read: {error}", place=str(file), hint="download the export again") from error


def _parsed(data: bytes, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {str(error)[:80]}", place=place, hint="download the export again") from error
    for record in document if isinstance(document, list) else [document]:
        if isinstance(record, dict):
            yield place, record


def _name(record: Mapping[str, Any]) -> tuple[tuple[str, str], int]:
    """(model, source) of a record and its feature, -1 where it names none."""
    index = record.get("index", record.get("feature"))
    text = str(index) if isinstance(index, int | str) and not isinstance(index, bool) else ""
    feature = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
    return (str(record.get("modelId", "")), str(record.get("layer", record.get("source", "")))), feature


def _is_of(source: tuple[str, str], spec: SaeSpec) -> bool:
    if spec.neuronpedia_id:
        return "/".join(source) == spec.neuronpedia_id
    layer = re.match(r"[0-9]{1,6}(?=-|$)", source[1])
    return layer is not None and int(layer[0]) == spec.layer


def _take(record: Mapping[str, Any], found: _Found, place: str) -> None:
    """What one record says; a whole feature holds lists of both kinds."""
    description = record.get("description")
    if isinstance(description, str) and description.strip():
        found.explanations.append(description.strip())
    if "tokens" in record and "values" in record:
        context = _context(record, place)
        if context is not None:
            found.contexts.append(context)
    for name in ("explanations", "activations"):
        for part in record.get(name) or () if isinstance(record.get(name), list) else ():
            if isinstance(part, dict):
                _take(part, found, place)


def _context(record: Mapping[str, Any], place: str) -> Context | None:
    """The strongest token of an activation record; None where nothing fires.

    Raises:
        UsageError: tokens and values do not belong together.
    """
    tokens, values = record["tokens"], record["values"]
    numbers = isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not isinstance(tokens, list) or not numbers or len(tokens) != len(values):
        raise UsageError("an activation's tokens and values do not belong together", place=place)
    if not values or not max(values) > 0:
        return None
    at = values.index(max(values))
    text = [str(t).translate(_SPACES) for t in tokens]
    return Context(
        before="".join(text[:at])[-AROUND:],
        token=text[at],
        after="".join(text[at + 1 :])[:AROUND],
        value=float(values[at]),
    )


def _evidence(layer: int, feature: int, found: _Found) -> Evidence:
    strongest = sorted(found.contexts, key=lambda c: -c.value)
    distinct = {c.marked(): c for c in reversed(strongest)}
    contexts = sorted(distinct.values(), key=lambda c: (-c.value, c.marked()))[:N_CONTEXTS]
    explanation = "; ".join(list(dict.fromkeys(found.explanations))[:3]) or None
    return Evidence(
        layer=layer, feature=feature, explanation=explanation, contexts=tuple(contexts), source="neuronpedia"
    )
