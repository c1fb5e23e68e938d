"""One small cache for the whole room: what is in it can be checked by eye."""

from pathlib import Path

import numpy as np
import pytest

from steercache.cache.sweeps import save_sweep
from steercache.core.trials import Answer, Cell
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session, open_session
from tests.index.small import Sentence, span
from tests.queries.small_cache import LAYERS, add_run
from tests.queries.small_features import PICTURE_FEATURES, TEXT_FEATURES, plant_features

MAT, BED, DOGS = "the cat is on the mat", "look under the bed", "I saw two dogs"

# row: token. 0 the 1 cat 2 is 3 ON 4 the 5 mat | 6 <s> 7 look 8 UNDER 9 the 10 bed
# 64 I 65 saw 66 TWO (dogs was not kept) | 67 plain 68 words | 69 be 70 very 71 happy | 72 be 73 sad
TEXT_RUN = [
    [
        Sentence(text=MAT, labels={"concept": "spatial", "split": "train", "anchors": [span(MAT, "on")]}),
        Sentence(text=BED, labels={"concept": "spatial", "split": "test", "anchors": [span(BED, "under")]}, bos=True),
    ],
    [
        Sentence(text=DOGS, labels={"concept": "counting", "anchors": [span(DOGS, "two")]}, kept=[0, 1, 2]),
        Sentence(text="plain words"),
        Sentence(text="be very happy", dataset="pairs", labels={"concept": "mood", "pair_id": "p1", "polarity": 1}),
        Sentence(text="be sad", dataset="pairs", labels={"concept": "mood", "pair_id": "p1", "polarity": -1}),
    ],
]
PICTURE_RUN = [
    [Sentence(text="how many", dataset="scenes", n_image=3, labels={"split": "test", "question": "how many?"})]
]


def cell(vector: SteeringVector | None, alpha: float) -> Cell:
    return Cell(
        vector_id=vector.vector_id if vector else None,
        layer=1 if vector else None,
        alpha=alpha,
        target="all",
        model_fingerprint="f" * 64,
        prompt_id="p",
    )


def add_vectors(session: Session, run_id: str) -> tuple[SteeringVector, SteeringVector]:
    """`east` points along the first axis, `north-east` along the first two; `east` separates best at layer 1."""
    made = []
    for name, direction, auc in (
        ("east", [2, 0, 0, 0], (0.6, 0.9, 0.8)),
        ("north-east", [3, 4, 0, 0], (0.7, 0.7, 0.5)),
    ):
        made.append(
            SteeringVector(
                name=name,
                method="mean_shift",
                concept="spatial",
                site="resid_post",
                layers=LAYERS,
                values=np.array([direction] * 3, dtype=np.float32),
                provenance={"run_id": run_id, "generation": "g0001", "query": {"name": "anchor_vs_control"}},
                diagnostics=tuple({"layer": i, "auc": auc[i], "resid_norm": 10.0} for i in LAYERS),
            )
        )
        session.save(made[-1])
    return made[0], made[1]


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a text run, an older one of the same model, a multimodal run, two vectors and a sweep."""
    root = tmp_path_factory.mktemp("queries") / "cache"
    add_run(root, "older", [[Sentence(text="old words")]], created_at="2025-01-01T00:00:00+00:00")
    run_id = add_run(root, "text", TEXT_RUN)
    pictures = add_run(
        root, "pictures", PICTURE_RUN, modality="multimodal", model="seer", created_at="2026-05-01T00:00:00+00:00"
    )
    plant_features(root, run_id, TEXT_FEATURES)
    plant_features(root, pictures, PICTURE_FEATURES)
    session = open_session(root)
    east, _ = add_vectors(session, run_id)
    base, steered = cell(None, 0.0), cell(east, 0.5)
    answers = [
        Answer(cell_id=base.cell_id, sample_id="q1", split="test", parsed="a", correct=True, margin=1.0),
        Answer(cell_id=base.cell_id, sample_id="q2", split="test", parsed="b", correct=False, margin=-1.0),
        Answer(cell_id=base.cell_id, sample_id="q3", split="test", parsed="c", correct=False, margin=-2.0),
        Answer(cell_id=steered.cell_id, sample_id="q1", split="test", parsed="b", correct=False, margin=-0.5),
        Answer(cell_id=steered.cell_id, sample_id="q2", split="test", parsed="a", correct=True, margin=0.5),
        Answer(cell_id=steered.cell_id, sample_id="q3", split="test", status="failed", error="no answer"),
    ]
    save_sweep(session.cache, "trial", manifest={"alphas": [0, 0.5]}, cells=[base, steered], answers=answers)
    return root


@pytest.fixture
def session(root: Path) -> Session:
    return open_session(root)


@pytest.fixture(scope="package")
def text_run(root: Path) -> str:
    return open_session(root).cache.resolve_run("text")
