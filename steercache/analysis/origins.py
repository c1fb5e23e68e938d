"""Do vectors fitted on an MLLM's own activations beat those of its text backbone? Same queries, two runs, one evaluation.

Both vectors compete in one sweep, each with its own controls; beside their gains over the baseline stands the direct comparison
of the two on the same questions, which is what answers the question.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from steercache.benchmarks.comparison import Comparison
from steercache.benchmarks.task import Progress
from steercache.cache.vectors import list_vectors
from steercache.cells.options import EvalOptions
from steercache.cells.vectors import lineage
from steercache.core.errors import NotFoundError
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import Benchmark
from steercache.fit.spread import RECIPE
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.queries.session import Session
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.record import read_record
from steercache.sweeps.result import SweepResult
from steercache.sweeps.tabulate import compare_cells


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosine:
    """The two directions at one layer."""

    layer: int
    cosine: float
    own_norm: float
    backbone_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """The comparison. `direct` is by split: `before` the backbone's vector, `after` the MLLM's own, each as it chose."""

    own: str
    backbone: str
    cosines: tuple[LayerCosine, ...]
    evaluation: SweepResult
    direct: Mapping[str, Comparison]


def find_origins(
    session: Session, spec: ModelSpec, *, concept: str, method: str = "mean_shift"
) -> tuple[SteeringVector, SteeringVector]:
    """The newest vectors of a concept and method that were fitted on the model's own run, and on its backbone's.

    Raises:
        NotFoundError: one of them is not there; the hint says how it is made.
    """
    found: dict[str, SteeringVector] = {}
    for stored in list_vectors(session.cache):
        vector = stored.vector
        made = vector.provenance
        if (vector.concept, vector.method) == (concept, method) and not {"control_kind", RECIPE} & made.keys():
            found.setdefault(lineage(session.cache, vector, spec), vector)
    for origin, whose in (("own", f"{spec.name} itself"), ("backbone", f"its backbone ({spec.backbone or 'unnamed'})")):
        if origin not in found:
            raise NotFoundError(
                f"no {method} vector of {concept!r} was fitted on a run of {whose}",
                hint=f"build a text trace with that model, then fit {concept} on that run, under the name {concept}-{origin}",
            )
    return found["own"], found["backbone"]


def compare_origins(
    session: Session,
    loaded: LoadedModel,
    benchmark: Benchmark,
    *,
    own: SteeringVector,
    backbone: SteeringVector,
    options: EvalOptions,
    progress: Progress | None = None,
) -> Origins:
    """Evaluate both vectors in one sweep, and compare them with each other. Raises as `run.evaluate`."""
    found = evaluate(session, loaded, benchmark, vectors=[own, backbone], options=options, progress=progress)
    record = read_record(session, found.sweep_id)
    direct = {}
    for split in found.table.splits:
        cells = {row.name: row.cell_id for row in split.rows}
        direct[split.split] = compare_cells(record, split.split, cells[backbone.name], cells[own.name])
    return Origins(
        own=own.name,
        backbone=backbone.name,
        cosines=vector_cosines(own, backbone),
        evaluation=found,
        direct=direct,
    )


def vector_cosines(own: SteeringVector, backbone: SteeringVector) -> tuple[LayerCosine, ...]:
    """Cosine and lengths of two vectors at every layer that both have (as `queries/layer_cosine.sql`)."""
    rows = []
    for layer in sorted(set(own.layers) & set(backbone.layers)):
        a, b = (np.asarray(v.at(layer), dtype=np.float64) for v in (own, backbone))
        lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        cosine = float(a @ b / (lengths[0] * lengths[1])) if all(lengths) else 0.0
        rows.append(LayerCosine(layer=layer, cosine=cosine, own_norm=lengths[0], backbone_norm=lengths[1]))
    return tuple(rows)
