"""Sections that say what stands behind a page: SAE features, what is missing, provenance and commands."""

from collections.abc import Mapping, Sequence
from typing import Any

from steercache.analysis.findings import VectorOrigin
from steercache.analysis.picked_features import PickedFeature, VectorFeatures
from steercache.core.excerpts import shortened
from steercache.core.shown_text import escaped
from steercache.report.document import section, table
from steercache.sweeps.table import SweepTable

_TEXT = 240  # characters of a text in a table


def features_section(found: Sequence[VectorFeatures]) -> str:
    """The SAE features of every vector that an SAE made; empty where there is none."""
    if not found:
        return ""
    columns = (
        "feature",
        "in the vector",
        "fires on anchors",
        "on controls",
        "verdict",
        "what it is said to mean",
        "texts",
    )
    body = ""
    for one in found:
        name = f"Features of {one.arm}"
        more = f" The first {len(one.features)} of {one.n} that were considered." if one.n > len(one.features) else ""
        body += f'<h3>{escaped(one.arm)}</h3><p class="note">SAE {escaped(one.sae_id[:12])}.{more}</p>' + table(
            name, columns, [_feature(f) for f in one.features]
        )
    note = (
        "Features that the fit of a vector considered, first those that it is made of. Rates are shares of the concept's tokens"
        " and of control tokens. In a text the token on which the feature fires stands in double brackets."
    )
    return section("SAE features", f'<p class="note">{note}</p>{body}')


def _feature(one: PickedFeature) -> list[str]:
    verdict = "no verdict" if one.verdict is None else f"{one.verdict}" + (f" ({one.judge})" if one.judge else "")
    means = one.explanation or one.reason or "–"
    return [
        f"{one.feature} (layer {one.layer})",
        "yes" if one.selected else "no",
        "–" if one.rate_anchor is None else f"{one.rate_anchor:.1%}",
        "–" if one.rate_control is None else f"{one.rate_control:.1%}",
        verdict,
        shortened(means, _TEXT),
        "\n".join(f"{i}. {shortened(' '.join(t.split()), _TEXT)}" for i, t in enumerate(one.contexts, start=1)) or "–",
    ]


def missing_section(missing: Sequence[str]) -> str:
    """What the cache does not have; empty where nothing is missing."""
    if not missing:
        return ""
    listed = "".join(f"<li>{escaped(one)}</li>" for one in missing)
    return section("What is not shown, and why", f'<ul class="missing">{listed}</ul>')


def provenance_section(
    table_: SweepTable, origins: Sequence[VectorOrigin], commands: Mapping[str, Sequence[str]]
) -> str:
    """Ids of everything that the numbers depend on; `commands` are the lines that make them again, by what they make."""
    model: Mapping[str, Any] = table_.manifest.get("model") or {}
    facts = [
        ("sweep", table_.sweep_id),
        ("kind", table_.kind or "–"),
        ("saved", f"{table_.created_at[:19]} UTC" if table_.created_at else "not recorded"),
        (
            "model",
            f"{table_.model or '–'}, {model.get('dtype', 'dtype unknown')}",
        ),
        ("weights", str(model.get("fingerprint", "not recorded"))),
        ("preprocessing", str(model.get("preprocessing") or "not recorded")),
        ("seed", str(table_.manifest.get("seed", "not recorded"))),
    ]
    listed = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in facts)
    rows = [
        (
            one.name,
            one.vector_id[:12],
            (one.method or "–").replace("_", " "),
            one.query or "–",
            "–" if one.run is None else f"{one.run} ({(one.run_id or '')[:12]})",
            one.model or "–",
        )
        for one in origins
    ]
    vectors = (
        table("Where the vectors come from", ("vector", "id", "method", "query", "run", "model"), rows) if rows else ""
    )
    lines = "".join(
        f"<h3>{escaped(what)}</h3><pre>{escaped(chr(10).join(some))}</pre>" for what, some in commands.items() if some
    )
    return section("Provenance", f"<dl>{listed}</dl>{vectors}{lines}")
