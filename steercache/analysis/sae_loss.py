"""What a reconstruction costs the model: cross-entropy with an SAE's reconstruction in the place of a layer's output.

Of the texts that the run was traced over. First positions are left as they are: their activations are massive, SAEs are rarely
trained on them, and a wrong one there swamps everything else.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.cache.handle import CacheFolder
from steercache.cache.source import ShardRecords, current_generation
from steercache.core.errors import UsageError
from steercache.models.spec import LoadedModel
from steercache.models.streams import active_stream, hidden_of, with_hidden
from steercache.sae.health import LossRecovered, token_ids_of_samples
from steercache.sae.loaded import LoadedSae
from steercache.steering.parts import parts_of

Replace = Callable[[torch.Tensor], torch.Tensor]  # rows (n, d) in float32 -> what stands in their place


def loss_recovered(
    cache: CacheFolder,
    sae: LoadedSae,
    run_id: str,
    loaded: LoadedModel,
    *,
    n_texts: int = 100,
    on_texts: Callable[[int, int], None] = lambda done, total: None,
) -> LossRecovered:
    """Cross-entropy of the next token over the first `n_texts` texts of a run: clean, reconstructed, with zeros, with the mean.

    Raises:
        UsageError: the run has pictures, was traced with another model, or its texts have no two tokens.
    """
    document, run = cache.run_document(run_id), cache.run_paths(run_id)
    if document.model.modality != "text":
        raise UsageError(f"loss recovered needs a run of texts; {document.name!r} has pictures")
    if document.model.fingerprint != loaded.spec.fingerprint:
        raise UsageError(
            f"the run {document.name!r} was traced with {document.model.name}, this is {loaded.spec.name} of other weights"
        )
    if sae.spec.site != "resid_post" or sae.spec.layer is None:
        raise UsageError(f"loss recovered is of a block's output, the SAE {sae.spec.name!r} reads {sae.spec.site}")
    shards = ShardRecords(run, current_generation(run))
    texts = [ids for ids in token_ids_of_samples(run, shards, n_texts=n_texts) if len(ids) > 1]
    if not texts:
        raise UsageError(f"no text of the run {document.name!r} has two tokens")
    block = parts_of(loaded).blocks[sae.spec.layer]
    mean = _mean_row(loaded, block, texts)
    ways: dict[str, Replace | None] = {
        "clean": None,
        "reconstructed": lambda x: sae.reconstruct(x).to(x.device),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
    }
    sums = dict.fromkeys(ways, 0.0)
    for done, ids in enumerate(texts, start=1):
        for name, replace in ways.items():
            sums[name] += _loss_sum(loaded, block, ids, replace)
        on_texts(done, len(texts))
    n_tokens = sum(len(ids) - 1 for ids in texts)
    return LossRecovered(
        n_texts_asked=n_texts,
        n_texts=len(texts),
        n_tokens=n_tokens,
        model_fingerprint=loaded.spec.fingerprint,
        **{name: total / n_tokens for name, total in sums.items()},
    )


def _mean_row(loaded: LoadedModel, block: Any, texts: Iterable[npt.NDArray[np.int64]]) -> torch.Tensor:
    """Mean output of the block over all positions but the first, (d,), in float32."""
    total, n = None, 0

    def note(x: torch.Tensor) -> torch.Tensor:
        nonlocal total, n
        rows = x.to(torch.float64).sum(0)
        total, n = rows if total is None else total + rows, n + len(x)
        return x

    for ids in texts:
        _loss_sum(loaded, block, ids, note)
    assert total is not None
    mean: torch.Tensor = (total / n).to(torch.float32)
    return mean


@torch.inference_mode()
def _loss_sum(loaded: LoadedModel, block: Any, ids: npt.NDArray[np.int64], replace: Replace | None) -> float:
    """Cross-entropy of the tokens after the first, summed, in nats."""
    tokens, stream = torch.from_numpy(ids)[None].to(loaded.model.device), active_stream(loaded.family, loaded.config)

    def hook(module: Any, args: Any, output: Any) -> Any:
        assert replace is not None
        hidden = hidden_of(output, stream)
        changed = hidden.clone()
        changed[0, 1:] = replace(hidden[0, 1:].to(torch.float32)).to(hidden.dtype)
        return with_hidden(output, changed, stream)

    handle = None if replace is None else block.register_forward_hook(hook)
    try:
        logits = loaded.model(input_ids=tokens, use_cache=False).logits[0, :-1].to(torch.float32)
    finally:
        if handle is not None:
            handle.remove()
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
