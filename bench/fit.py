"""Mean shift of every layer from a warm cache, SQL included, against forward passes over the same sentences.

1,120 sentences: the shipped ones behind seven openings, all under one concept, so that the selection takes nearly every row.
SmolLM2-135M in the dtype that is faster here, 30 layers. The forward passes are those of the build: the decoder alone,
without its head.
"""

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

from bench.build import bare_forwards, batches_of
from bench.texts import write_trace
from bench.turns import Row, fast_dtype, take_turns
from steercache.cache.handle import open_cache
from steercache.data.concept_set import concept_rows
from steercache.data.rows import Row as DataRow
from steercache.fit import mean_shift
from steercache.manifests.dataset import CONCEPTS
from steercache.queries.session import Session, open_session
from steercache.runs.engine import build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.plan import plan_run

OPENINGS = ("We read this:", "He wrote:", "Somebody said:", "It begins so:", "Here it is:", "As told:", "Listen:")
TURNS = 5


def write_sentences(folder: Path) -> dict[str, object]:
    """The sentences with their anchors as JSONL, and the data set that reads them."""
    known = [row.values for row in concept_rows(CONCEPTS) if isinstance(row, DataRow)]
    lines = [
        json.dumps({"text": f"{opening} {row['text']}", "anchor": row["anchor"], "concept": "any"})
        for opening in OPENINGS
        for row in known
    ]
    (folder / "sentences.jsonl").write_text("\n".join(lines) + "\n")
    columns = {"text": "text", "anchor": "anchor", "concept": "concept"}
    source = {"type": "jsonl", "path": "sentences.jsonl", "columns": columns}
    return {"kind": "dataset", "version": 1, "name": "sentences", "source": source}


def fit_all(session: Session) -> None:
    """What `steercache fit mean-shift --concept any --no-diagnose` does, saving left out."""
    mean_shift(session.select("anchor_vs_control", concept="any"))


def run(folder: Path | None = None) -> list[Row]:
    """The line of the fit."""
    work = Path(tempfile.mkdtemp(prefix="bench-fit-", dir=folder))
    try:
        manifest = write_trace(work, datasets=[write_sentences(work)])
        dtype = fast_dtype()
        prepared = prepare_trace(manifest, cache_root=work / "root", device="cpu", dtype=dtype)
        loaded = prepared.load()
        cache = open_cache(work / "root", create=True)
        plan = plan_run(prepared.job, cache=cache)
        build_run(cache, plan, PreparedTrace(job=prepared.job, load=lambda: loaded, again=prepared.again))
        session = open_session(work / "root")
        fit_all(session)
        peer = partial(bare_forwards, loaded, batches_of(prepared, loaded, plan))
        name = f"mean shift, all 30 layers, {plan.document.n_samples:,} sentences, against forward passes"
        row = take_turns(name, partial(fit_all, session), peer, n=TURNS, target=">= 100")
        return [row | {"dtype": dtype, "n_bytes": plan.n_bytes}]
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
