"""Tables of fitted vectors at the terminal, and the command to try one."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steercache.cli.output import at_root, note, print_table
from steercache.core.ids import SHORT_ID
from steercache.core.predictors import predictors_at
from steercache.core.vector_use import LAYER_INDEXING, OPERATIONS, PLACES, UNITS

if TYPE_CHECKING:
    from steercache.core.vectors import SteeringVector


def describe_vector(vector: "SteeringVector") -> dict[str, Any]:
    """What a vector is, without its values."""
    return {
        "vector_id": vector.vector_id,
        "name": vector.name,
        "method": vector.method,
        "concept": vector.concept,
        "site": vector.site,
        "layers": list(vector.layers),
        "provenance": dict(vector.provenance),
        "diagnostics": [dict(d) for d in vector.diagnostics],
        "fitted_on": None if vector.fitted_on is None else asdict(vector.fitted_on),
        "use": None if vector.use is None else vector.use.to_json(),
    }


def _conventions(bos: bool | None, chat: str | None) -> str:
    """How prompts begin, in words."""
    begins = {None: "BOS not known", True: "with BOS", False: "without BOS"}[bos]
    template = {None: "chat template not known", "none": "no chat template"}.get(chat, "in the chat template")
    return f"{begins}, {template}"


def use_facts(vector: "SteeringVector") -> list[list[Any]]:
    """What is known of the model that a vector belongs to, and of its use, as rows of a table."""
    fitted_on, use = vector.fitted_on, vector.use
    rows: list[list[Any]] = []
    if fitted_on is not None:
        rows.append(["fitted on", f"{fitted_on.name} ({fitted_on.fingerprint[:SHORT_ID]}), {fitted_on.modality} model"])
        if fitted_on.bos is not None or fitted_on.chat is not None:
            rows.append(["its texts", _conventions(fitted_on.bos, fitted_on.chat)])
    if use is None:
        return rows
    rows += [["use", str(use)], ["place", f"{use.place}: {PLACES[use.place]}"], ["layers are", LAYER_INDEXING]]
    rows += [["operation", f"{use.operation}: {OPERATIONS[use.operation]}"]]
    if use.parameters:
        rows.append(["parameters", ", ".join(f"{name} {value:g}" for name, value in use.parameters.items())])
    if use.strength is not None:
        rows.append(["strength", f"{use.strength:g} {UNITS[use.strength_unit]}"])
    if use.strength_range is not None:
        rows.append(["small damage", f"strength {use.strength_range[0]:g} to {use.strength_range[1]:g}"])
    rows.append(["prompts", _conventions(use.bos, use.chat)])
    if use.source:
        rows.append(["comes from", ", ".join(f"{name} {value}" for name, value in use.source.items())])
    return rows


def best_fit(vector: "SteeringVector") -> list[Any]:
    """The layer of the highest AUC, with d' and the cosine of the training differences there; None: not measured."""
    scored = [(auc, -d["layer"]) for d in vector.diagnostics if isinstance(auc := d.get("auc"), float)]
    layer = -max(scored)[1] if scored else None
    known = predictors_at(vector.diagnostics, layer)
    return [layer, None, None] if known is None else [layer, known.d_prime, known.cosine_words]


def print_layers(vector: "SteeringVector") -> None:
    """The per-layer table of one vector."""
    by_layer = {d["layer"]: d for d in vector.diagnostics}
    others = list(dict.fromkeys(name for d in vector.diagnostics for name in d.get("cosine", {})))
    columns = ["layer", "AUC", "AUC, token only", "d'", "cos of differences", "wrong way", "norm", "norm / median row"]
    columns += ["stability", "95 %"]
    rows = []
    for layer, norm in zip(vector.layers, vector.norms, strict=True):
        d = by_layer.get(layer, {})
        low, high = d.get("stability_low"), d.get("stability_high")
        interval = None if low is None else f"{low:.2f} to {high:.2f}"
        spread = d.get("difference_cosine_std")
        alike = None if spread is None else f"{d['difference_cosine']:.2f} ± {spread:.2f}"
        measured = [d.get("auc"), d.get("token_auc"), d.get("d_prime"), alike, d.get("wrong_way")]
        measured += [float(norm), d.get("norm_ratio"), d.get("stability"), interval]
        rows.append([layer, *measured, *(d.get("cosine", {}).get(name) for name in others)])
    print_table([*columns, *(f"cos {name}" for name in others)], rows)
    _say_caveats([vector])


def print_best(fitted: "Sequence[SteeringVector]") -> None:
    """One line per vector: its best layer, and how well it does there."""
    columns = ["vector", "id", "rows", "best layer", "AUC", "AUC, token only", "d'", "wrong way", "norm / median row"]
    columns += ["stability"]
    rows = []
    for vector in fitted:
        best: Any = max(vector.diagnostics, key=lambda d: d["auc"] or 0.0, default={})
        head = [vector.name, vector.vector_id[:SHORT_ID], vector.provenance["rows"]["n"], best.get("layer")]
        rows.append(
            [*head, *(best.get(k) for k in ("auc", "token_auc", "d_prime", "wrong_way", "norm_ratio", "stability"))]
        )
    print_table(columns, rows)
    _say_caveats(fitted)


def _say_caveats(vectors: "Sequence[SteeringVector]") -> None:
    from steercache.api.fitting import caveats

    for sentence in dict.fromkeys(sentence for vector in vectors for sentence in caveats(vector)):
        note(sentence)


def steer_commands(vector: "SteeringVector", root: Path) -> list[str]:
    """How to try a vector, from any folder: at an early block, at strengths that show (a probe has unit norm), without the
    first token. Vectors of SAEs belong to one block: where it is late, steering the prompt alone changes little. Nothing for
    one that does something else than to add, or is used at several layers: the command has one."""
    early = vector.layers[len(vector.layers) // 5]
    if vector.use is not None and (vector.use.operation != "add" or len(vector.use.layers or ()) > 1):
        return []
    if vector.method.startswith("sae"):
        words = f"--layer {early} --alpha 20,40,80 --when every --skip-first"
    else:
        alpha = "1,2,4" if vector.method == "mean_shift" else "10,20,40"
        words = f"--layer {early} --alpha {alpha} --target text --skip-first"
    return [
        f'steercache steer {shlex.quote(vector.name)} "On the way home we saw" {words}{at_root(root, default=None)}'
    ]


def sae_facts(vector: "SteeringVector") -> "list[list[Any]]":
    """What a vector from features of SAEs is made of, as lines of `vectors show`; [] for another."""
    from steercache.api.sae_fitting import described

    return [] if not vector.method.startswith("sae") else [[what, text] for what, text in described(vector).items()]
