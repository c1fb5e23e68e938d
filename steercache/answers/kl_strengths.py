"""Strengths at which the damage on unrelated prompts is a given KL: what alpha stands for in the unit "kl".

The mean KL of `damage_of` is followed along the strength of each (vector, layer, target, direction), from several strengths at
once, then by bisection (`stats.level`); all curves share the passes of a round. What was found is part of what a cell is, so it
is kept in the cache, with every point that was seen: another level of the same curve starts from them.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from steercache.answers.costs import MachineCosts, branches_s
from steercache.answers.damage import damage_of, neutral_inputs, neutral_samples
from steercache.answers.work import BatchWork, CellKind
from steercache.cache.handle import CacheFolder
from steercache.cache.lock_wait import hold_folder
from steercache.cells.arms import Arm
from steercache.cells.options import GridAxes, KlPlace
from steercache.cells.sweep import SweepJob
from steercache.core.activity import announce
from steercache.core.errors import DamagedError, SteercacheWarning, UsageError
from steercache.core.ids import canonical_json, digest
from steercache.core.operations import largest_strength, read_operation
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.stats.level import Level, falls, level_reached, next_strength
from steercache.steering.cells import BranchCell
from steercache.steering.effect_inputs import EffectInputs
from steercache.steering.neutral import CAPTIONS, PROMPTS
from steercache.steering.operations.change import change_of
from steercache.steering.row_norms import row_norms
from steercache.store.durable import make_folder, read_bytes, write_file_atomically

KlStrengths = Mapping[KlPlace, float]
_FIRST: Final = (1 / 64, 1 / 16, 1 / 4, 1.0)  # of the median norm of the steered rows, or of the largest strength
_LARGEST: Final = 64.0  # median norms
_SHOWN: Final = 4
_MORE_EACH: Final = (
    2  # evaluations of a level after the first strengths of its curve, and in how many passes: SmolLM2, 45 levels
)
_MORE_PASSES: Final = 4


@dataclass(slots=True, kw_only=True)
class _Curve:
    """Damage along one direction: `seen` mean nats by strength (> 0; infinite where a prompt overflowed), `found` strengths by
    level. `sign` turns strengths into raw ones."""

    vector: SteeringVector = field(repr=False)
    layer: int
    target: str
    sign: int
    seen: dict[float, float] = field(default_factory=dict)
    found: dict[float, float] = field(default_factory=dict)
    wanted: set[float] = field(default_factory=set)

    @property
    def open_levels(self) -> list[float]:
        return sorted(self.wanted - self.found.keys())


def kl_strengths_of(
    cache: CacheFolder,
    bundle: TokenizerBundle,
    vectors: Sequence[SteeringVector],
    axes: GridAxes,
    *,
    load: Callable[[], LoadedModel],
    memory_mib: int = 1024,
) -> KlStrengths:
    """Raw strengths by vector, layer, target and alpha (nats); `load` is called where the cache does not have them all.

    Warns where a curve is not monotone: then the smallest strength that reaches the level counts.

    Raises:
        UsageError: a vector cannot reach a level, or jumps over it; what was seen is named. DamagedError: a file of the cache.
    """
    curves = _curves(cache, bundle, vectors, axes)
    open_curves = [curve for curve in curves if curve.open_levels]
    if open_curves:
        loaded = load()
        n = sum(len(curve.open_levels) for curve in open_curves)
        announce(f"finding {n} strengths at a given KL on unrelated prompts")
        _follow(loaded, open_curves, axes, memory_mib=memory_mib)
        _keep(cache, bundle, open_curves, axes)
        _refuse_unreached(open_curves)
        curves = _curves(cache, bundle, vectors, axes)  # as they will be read
    return _strengths(curves, axes)


def known_kl_strengths(
    cache: CacheFolder, bundle: TokenizerBundle, vectors: Sequence[SteeringVector], axes: GridAxes
) -> KlStrengths:
    """Those that the cache has. Raises DamagedError."""
    return _strengths(_curves(cache, bundle, vectors, axes), axes)


def kl_strengths_s(costs: MachineCosts, job: SweepJob, *, n_nulls: int = 0) -> float:
    """Seconds of finding what the cache lacks of a sweep's strengths, and those of `n_nulls` null directions beside each."""
    bundle = job.loaded.bundle
    asked = _asked(job.grid.arms, job.grid.options.axes)
    curves = [one for vectors, axes in asked for one in _curves(job.session.cache, bundle, vectors, axes)]
    cells: Counter[CellKind] = Counter()
    for curve in curves:
        to_find = (bool(curve.open_levels), *[True] * n_nulls).count(True)
        levels = len(curve.wanted if n_nulls else curve.open_levels)
        cells[CellKind(layer=curve.layer)] += to_find * (len(_FIRST) + _MORE_EACH * levels)
    if not cells.total():
        return 0.0
    samples = neutral_samples(bundle)
    width = max(sample.n_tokens for sample in samples)
    batch = BatchWork(n_seq=len(samples), n_tokens=width, n_more=0, cells=tuple(cells.items()))
    unsteered = replace(batch, cells=())
    return branches_s(costs, batch) + _MORE_PASSES * branches_s(costs, unsteered)


def kl_axes(
    cache: CacheFolder,
    bundle: TokenizerBundle,
    arms: Sequence[Arm],
    axes: GridAxes,
    *,
    load: Callable[[], LoadedModel] | None,
    memory_mib: int = 1024,
) -> GridAxes:
    """The axes with the strengths of all vectors of `arms`; unchanged in other units. Without `load` only known ones."""
    found: dict[KlPlace, float] = {}
    for vectors, own in _asked(arms, axes):
        if load is None:
            found |= known_kl_strengths(cache, bundle, vectors, own)
        else:
            found |= kl_strengths_of(cache, bundle, vectors, own, load=load, memory_mib=memory_mib)
    return replace(axes, kl_strengths={**(axes.kl_strengths or {}), **found}) if "kl" in axes.units else axes


def _asked(arms: Sequence[Arm], axes: GridAxes) -> list[tuple[list[SteeringVector], GridAxes]]:
    """Vectors with the axes of their strengths in the unit "kl": those of the grid, and each part of a combination alone."""
    vectors = [arm.vector for arm in arms if arm.vector is not None]
    asked = [(vectors, axes)] if vectors and axes.alpha_unit == "kl" else []
    parts = {one.cell_part(): one for arm in arms for one in arm.parts if one.alpha_unit == "kl"}
    for part in parts.values():
        own = replace(
            axes,
            layers=(part.layer,),
            alphas=(part.alpha,),
            targets=(part.target,),
            alpha_unit="kl",
            operation=part.operation,
            place=part.place,
        )
        asked.append(([part.vector], own))
    return asked


def _strengths(curves: Sequence[_Curve], axes: GridAxes) -> KlStrengths:
    return {
        KlPlace(c.vector.vector_id, c.layer, c.target, c.sign * level, axes.operation, axes.site): c.sign
        * c.found[level]
        for c in curves
        for level in c.wanted & c.found.keys()
    }


def _curves(
    cache: CacheFolder, bundle: TokenizerBundle, vectors: Sequence[SteeringVector], axes: GridAxes
) -> list[_Curve]:
    """A curve for each vector, layer, target and direction, with what the cache knows of it."""
    curves = []
    for vector in {one.vector_id: one for one in vectors}.values():
        for layer in axes.layers:
            for target in axes.targets:
                for sign in sorted({1 if alpha > 0 else -1 for alpha in axes.alphas}):
                    curve = _Curve(vector=vector, layer=layer, target=target, sign=sign)
                    curve.wanted = {abs(alpha) for alpha in axes.alphas if (alpha > 0) == (sign > 0)}
                    _read(cache, bundle, curve, axes)
                    curves.append(curve)
    return curves


def _follow(loaded: LoadedModel, curves: Sequence[_Curve], axes: GridAxes, *, memory_mib: int) -> None:
    """Evaluate until every level is reached or given up, all curves at once."""
    inputs = neutral_inputs(loaded)
    levels = {id(curve): _levels(curve, axes, norm) for curve, norm in _with_norms(loaded, inputs, curves, axes)}
    wanted = [(curve, s) for curve in curves if not curve.seen for s in levels[id(curve)][0].start]
    step = 0
    while wanted or step == 0:
        _evaluate(loaded, inputs, wanted, axes, memory_mib=memory_mib)
        step += 1
        asked = {
            (i, s)
            for i, curve in enumerate(curves)
            for level in levels[id(curve)]
            if (s := next_strength(level, curve.seen, step=step)) is not None
        }
        wanted = [(curves[i], s) for i, s in sorted(asked)]
    for curve in curves:
        for level in levels[id(curve)]:
            reached = level_reached(level, curve.seen)
            if reached is not None:
                curve.found[level.wanted] = reached
        fall = falls(curve.seen)
        if fall is not None:
            warnings.warn(
                f"the KL of {_name(curve)} falls between strength {curve.sign * fall[0]:.4g} and {curve.sign * fall[1]:.4g}: "
                f"the smallest strength that reaches a level is taken ({_seen(curve)})",
                SteercacheWarning,
                stacklevel=4,
            )


def _with_norms(
    loaded: LoadedModel, inputs: EffectInputs, curves: Sequence[_Curve], axes: GridAxes
) -> list[tuple[_Curve, float]]:
    """Every curve with the strength that is one median norm of the rows it steers, or the largest there is."""
    end = largest_strength(read_operation(axes.operation))
    if end is not None:
        return [(curve, end) for curve in curves]
    targets = sorted({curve.target for curve in curves})
    asked = [axes.clauses.get(target, target) for target in targets]
    batches = inputs.batches()
    norms = np.concatenate([row_norms(loaded, one, targets=asked, place=axes.site) for one in batches], axis=1)
    found = []
    for curve in curves:
        rows = norms[curve.layer, :, targets.index(curve.target)]
        length = float(np.linalg.norm(curve.vector.at(curve.layer)))
        if length == 0 or np.isnan(rows).all():
            what = "is zero" if length == 0 else f"hits no {curve.target} rows of the unrelated prompts"
            raise UsageError(f"the vector {curve.vector.name!r} {what} at layer {curve.layer}: it does no damage")
        found.append((curve, float(np.nanmedian(rows)) / length))
    return found


def _levels(curve: _Curve, axes: GridAxes, norm: float) -> list[Level]:
    end = largest_strength(read_operation(axes.operation))
    start = tuple(share * norm for share in _FIRST)
    bound = end if end is not None else _LARGEST * norm
    return [Level(wanted=level, start=start, bound=bound) for level in curve.open_levels]


def _evaluate(
    loaded: LoadedModel,
    inputs: EffectInputs,
    wanted: Sequence[tuple[_Curve, float]],
    axes: GridAxes,
    *,
    memory_mib: int,
) -> None:
    """One pass over the prompts with these strengths of these curves side by side."""
    operation, cells = read_operation(axes.operation), []
    for i, (curve, strength) in enumerate(wanted):
        change = change_of(curve.vector, curve.layer, alpha=curve.sign * strength, operation=operation)
        target = axes.clauses.get(curve.target, curve.target)
        cells.append(
            BranchCell(
                key=str(i),
                layer=curve.layer,
                delta_d=change.delta_d,
                target=target,
                change=change,
                place=axes.site,
            )
        )
    found = damage_of(loaded, cells, inputs, memory_mib=memory_mib)
    for key, damage in found.items():
        curve, strength = wanted[int(key)]
        curve.seen[strength] = math.inf if damage.n_failed or not damage.n else damage.mean_nats


def _refuse_unreached(curves: Sequence[_Curve]) -> None:
    missed = [(curve, level) for curve in curves for level in curve.open_levels]
    if not missed:
        return
    shown = "; ".join(f"{_name(curve)}: {level:g} nats ({_seen(curve)})" for curve, level in missed[:_SHOWN])
    more = f"; and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
    raise UsageError(
        f"{len(missed)} strengths at a given KL were not found: {shown}{more}",
        hint="a smaller alpha, other layers or targets, or alpha in raw units",
    )


def _name(curve: _Curve) -> str:
    return f"{curve.vector.name!r} at layer {curve.layer} on {curve.target} tokens"


def _seen(curve: _Curve) -> str:
    """The most that was done, and by which strength."""
    finite = {s: k for s, k in curve.seen.items() if math.isfinite(k)}
    if not finite:
        return "the model overflows at every strength that was tried"
    largest = max(finite, key=lambda s: finite[s])
    reached = f"most {finite[largest]:.3g} nats, at strength {curve.sign * largest:.4g}"
    return f"{reached}, of {len(curve.seen)} strengths up to {curve.sign * max(curve.seen):.4g}"


def _identity(bundle: TokenizerBundle, curve: _Curve, axes: GridAxes) -> dict[str, Any]:
    spec = bundle.spec
    return {
        "fingerprint": spec.fingerprint,
        "dtype": spec.dtype,
        "tokenizer": spec.tokenizer_digest,
        "prompts": digest(list(CAPTIONS if bundle.family.modality == "image" else PROMPTS)),
        "vector": curve.vector.vector_id,
        "layer": curve.layer,
        "target": curve.target,
        "sign": curve.sign,
        "operation": axes.operation,
        **({} if axes.site == "resid_post" else {"place": axes.site}),
    }


def _read(cache: CacheFolder, bundle: TokenizerBundle, curve: _Curve, axes: GridAxes) -> None:
    path = cache.paths.kl_strengths / f"{digest(_identity(bundle, curve, axes))}.json"
    if not path.exists():
        return
    try:
        document = json.loads(read_bytes(path))
        curve.seen = {float(s): math.inf if k is None else float(k) for s, k in document["seen"]}
        curve.found = {float(level): float(s) for level, s in document["found"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"not the damage along a vector: {error}", place=str(path), hint="delete it: it is measured again"
        ) from error


def _keep(cache: CacheFolder, bundle: TokenizerBundle, curves: Sequence[_Curve], axes: GridAxes) -> None:
    """Write what was seen and found; of a level that another process found meanwhile, its strength holds."""
    folder = cache.paths.kl_strengths
    make_folder(folder)
    with hold_folder(folder):
        for curve in curves:
            kept = _empty(curve)
            _read(cache, bundle, kept, axes)
            seen, found = {**curve.seen, **kept.seen}, {**curve.found, **kept.found}
            identity = _identity(bundle, curve, axes)
            document = {
                **identity,
                "model": bundle.spec.name,
                "name": curve.vector.name,
                "seen": [[s, k if math.isfinite(k) else None] for s, k in sorted(seen.items())],
                "found": [[level, s] for level, s in sorted(found.items())],
            }
            write_file_atomically(folder / f"{digest(identity)}.json", canonical_json(document) + b"\n")


def _empty(curve: _Curve) -> _Curve:
    """The same curve without points."""
    return _Curve(vector=curve.vector, layer=curve.layer, target=curve.target, sign=curve.sign)
