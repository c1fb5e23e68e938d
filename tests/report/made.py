"""Made-up findings about a made-up sweep: something for every section of a page."""

import io
import math
from typing import Any, Final

import numpy as np
import PIL.Image

from steercache.analysis.dose import DoseCurve, DosePoint
from steercache.analysis.findings import Findings, VectorOrigin
from steercache.analysis.patches import PatchMap
from steercache.analysis.picked_features import PickedFeature, VectorFeatures
from steercache.analysis.predicted import PredictedCell, PredictedSweep
from steercache.analysis.sample_cards import ArmCards, SampleCard
from steercache.analysis.vector_layers import CosineCurve, VectorLayers
from steercache.core.trials import Cell

N_FIGURES: Final = 3 + 2 + 3 + 4 + 6  # curves, scatters, predicted maps, layers, pictures of cards


def jpeg(colour: str) -> bytes:
    sink = io.BytesIO()
    PIL.Image.new("RGB", (96, 64), colour).save(sink, format="JPEG")
    return sink.getvalue()


def made_findings(*names: str, words: str = "How many cats are in the picture?") -> Findings:
    """Findings about three vectors of these names; every text of a data set is `words`."""
    target: Any = "image"
    cells = [
        PredictedCell(
            arm=name,
            cell=Cell(
                vector_id=name, layer=layer, alpha=alpha, target=target, model_fingerprint="m", prompt_id="plain"
            ),
            margin=alpha / 10 - layer / 20,
            accuracy=alpha / 40,
            beyond=alpha > 1,
            exact_margin=alpha / 9 - layer / 20,
            exact_accuracy=alpha / 50,
            n=60,
        )
        for name in names
        for layer in (2, 3)
        for alpha in (1.0, 2.0)
    ]
    layers = tuple(range(12))
    return Findings(
        curves=tuple(_curve(name) for name in names),
        layers=tuple(
            VectorLayers(
                name=name,
                layers=layers,
                auc=tuple(0.6 + 0.03 * i for i in layers),
                norm=tuple(10.0 + i for i in layers),
                relative_norm=tuple(0.2 + i / 50 for i in layers),
                turn=(math.nan, *(0.8 for _ in layers[1:])),
            )
            for name in names
        ),
        cosines=(CosineCurve(names=(names[0], names[1]), layers=layers, cosine=tuple(i / 20 for i in layers)),),
        predicted=PredictedSweep(run=words, n=60, cells=tuple(cells)),
        cards=(
            _cards(names[0], words, "helped", "hurt", "unchanged"),
            _cards(names[1], words, "helped", "hurt", "unchanged"),
        ),
        features=tuple(_features(name, words) for name in names[:2]),
        origins=(
            VectorOrigin(
                vector_id="f" * 64,
                name=names[0],
                method="mean_shift",
                query=words,
                run=words,
                run_id="e" * 64,
                model=words,
            ),
        ),
        missing=(words,),
    )


def _curve(name: str) -> DoseCurve:
    points = [
        DosePoint(
            alpha=float(a),
            gain=a / 40,
            low=a / 40 - 0.05,
            high=a / 40 + 0.05,
            n=60,
            control_low=-0.01 * a,
            control_high=0.01 * a,
            n_controls=3 if a else 0,
        )
        for a in range(4)
    ]
    return DoseCurve(arm=name, layer=3, target="image", alpha_unit="raw", chosen=2.0, points=tuple(points))


def _cards(arm: str, words: str, *changes: Any) -> ArmCards:
    patches = PatchMap(layer=3, projection_rc=np.arange(6.0).reshape(2, 3))
    cards = [
        SampleCard(
            change=change,
            question=words,
            choices=(words, "two"),
            right="B",
            before=words,
            after="B",
            before_right=change == "hurt",
            after_right=change == "helped",
            place=words,
            has_picture=True,
            picture=jpeg("teal"),
            patches=patches,
        )
        for change in changes
    ]
    return ArmCards(arm=arm, split="test", layer=3, counts=dict.fromkeys(changes, 20), cards=tuple(cards))


def _features(arm: str, words: str) -> VectorFeatures:
    feature = PickedFeature(
        layer=3,
        feature=17,
        selected=True,
        rate_anchor=0.5,
        rate_control=0.01,
        verdict="yes",
        judge=words,
        reason=words,
        explanation=words,
        contexts=(f"[[{words}]]", "three [[dogs]]"),
    )
    return VectorFeatures(arm=arm, sae_id="d" * 64, n=30, features=(feature,))
