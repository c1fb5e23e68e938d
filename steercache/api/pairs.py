"""Contrastive pairs written in Python: traced into a cache, and selected for a fit."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from steercache.api.cache import Cache, open_cache_at
from steercache.api.progress import ProgressLike
from steercache.api.tracing import build_trace
from steercache.cache.inputs import save_input
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID, digest
from steercache.core.selection import Selection
from steercache.manifests.documents import TraceManifest
from steercache.manifests.resolve import resolve_trace_document


def pairs(
    model: str,
    texts: Sequence[tuple[str, str]],
    *,
    concept: str = "pairs",
    layers: Sequence[int] | None = None,
    chat: bool = False,
    cache: Cache | str | PathLike[str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: ProgressLike = None,
) -> Selection:
    """Trace (positive, negative) texts through `model`, and select the last token of each: label 1 for the positive side.

    The rows are cached, so that the same pairs are traced once. `model` is a name as `steercache.load` takes it; `layers` are
    those to keep (None: all); `chat` puts each text into the model's chat template. The selection goes into
    `steercache.fit.mean_shift` (the contrastive activation addition of arXiv 2312.06681) or `linear_probe`.

    Raises:
        UsageError: no pairs, or both sides of one are the same. NotFoundError: no such model.
    """
    if not texts:
        raise UsageError("no pairs were given", hint='give texts such as [("I love this", "I hate this"), ...]')
    for number, pair in enumerate(texts):
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise UsageError(
                f"pair {number} is not two texts: {pair!r:.80}", hint='write ("positive text", "negative text")'
            )
    opened = cache if isinstance(cache, Cache) else open_cache_at(cache, create=True)
    rows = [json.dumps({"positive": positive, "negative": negative}) for positive, negative in texts]
    name = f"{concept}-{digest(rows)[:SHORT_ID]}"
    path = opened.root / "inputs" / f"{name}.jsonl"
    save_input(path, "\n".join((*rows, "")).encode())
    dataset = {"kind": "dataset", "version": 1, "name": name, "concept": concept, "chat": {"apply": chat}}
    dataset["source"] = {"type": "pairs", "path": path.name}
    document = {"kind": "trace", "version": 1, "name": name, "model": model, "datasets": [dataset]}
    document |= {"rows": {"policy": "last"}} | ({} if layers is None else {"layers": list(layers)})
    manifest = TraceManifest.model_validate_json(json.dumps(document))
    resolved = resolve_trace_document(manifest, place=path.parent / "manifest.yaml", search=(Path(),))
    run = build_trace(opened.folder, resolved, device=device, dtype=dtype, progress=progress)
    return opened.select("contrast_last", run=run, concept=concept)
