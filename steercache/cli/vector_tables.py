"""Tables of fitted vectors at the terminal, and the command to try one."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steercache.cli.output import at_root, note, print_table
from steercache.core.ids import SHORT_ID

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
    }


def print_layers(vector: "SteeringVector") -> None:
    """The per-layer table of one vector."""
    by_layer = {d["layer"]: d for d in vector.diagnostics}
    others = list(dict.fromkeys(name for d in vector.diagnostics for name in d.get("cosine", {})))
    columns = ["layer", "AUC", "AUC, token only", "norm", "norm / median row", "stability", "95 %"]
    rows = []
    for layer, norm in zip(vector.layers, vector.norms, strict=True):
        d = by_layer.get(layer, {})
        low, high = d.get("stability_low"), d.get("stability_high")
        interval = None if low is None else f"{low:.2f} to {high:.2f}"
        measured = [d.get("auc"), d.get("token_auc"), float(norm), d.get("norm_ratio"), d.get("stability"), interval]
        rows.append([layer, *measured, *(d.get("cosine", {}).get(name) for name in others)])
    print_table([*columns, *(f"cos {name}" for name in others)], rows)
    _say_caveats([vector])


def print_best(fitted: "Sequence[SteeringVector]") -> None:
    """One line per vector: its best layer, and how well it does there."""
    columns = ["vector", "id", "rows", "best layer", "AUC", "AUC, token only", "norm / median row", "stability"]
    rows = []
    for vector in fitted:
        best: Any = max(vector.diagnostics, key=lambda d: d["auc"] or 0.0, default={})
        head = [vector.name, vector.vector_id[:SHORT_ID], vector.provenance["rows"]["n"], best.get("layer")]
        rows.append([*head, *(best.get(k) for k in ("auc", "token_auc", "norm_ratio", "stability"))])
    print_table(columns, rows)
    _say_caveats(fitted)


def _say_caveats(vectors: "Sequence[SteeringVector]") -> None:
    from steercache.api.fitting import caveats

    for sentence in dict.fromkeys(sentence for vector in vectors for sentence in caveats(vector)):
        note(sentence)


def steer_command(vector: "SteeringVector", root: Path) -> str:
    """How to try a vector, from any folder: at an early block, at strengths that show (a probe has unit norm), without the
    first token."""
    early = vector.layers[len(vector.layers) // 5]
    alpha = "1,2,4" if vector.method == "mean_shift" else "10,20,40"
    words = f"--layer {early} --alpha {alpha} --target text --skip-first"
    return f'steercache steer {shlex.quote(vector.name)} "On the way home we saw" {words}{at_root(root, default=None)}'
