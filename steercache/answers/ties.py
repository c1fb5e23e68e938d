"""The near-tie tolerance of a model on this machine: measured once and kept in `calibration.json`."""

import torch

from steercache.answers.damage import neutral_samples
from steercache.cache.calibration import record_costs, recorded_costs
from steercache.cache.handle import CacheFolder
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.steering.costs import key_for, key_of
from steercache.steering.ties import measure_tie_nats

_NAMES = frozenset({"tie_nats"})


def tie_nats_here(cache: CacheFolder, loaded: LoadedModel) -> float | None:
    """The largest gap between two logits that another batch composition may swap; None: it cannot be measured."""
    known = known_tie_nats(cache, loaded.spec, loaded.model.device)
    if known is not None:
        return known
    measured = measure_tie_nats(loaded, neutral_samples(loaded.bundle))
    if measured is None:
        return None
    return record_costs(cache.paths, _key(key_of(loaded)), {"tie_nats": measured})["tie_nats"]


def known_tie_nats(cache: CacheFolder, spec: ModelSpec, device: torch.device) -> float | None:
    """The same without the model; None: not measured yet."""
    found = recorded_costs(cache.paths, _key(key_for(spec, device)), _NAMES)
    return None if found is None else found["tie_nats"]


def _key(forward_key: str) -> str:
    return forward_key.replace("forward/", "ties/", 1)
