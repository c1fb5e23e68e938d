"""How a cache and a sweep manifest show themselves in a notebook: from the index alone, without a model."""

from typing import Any, Final

from steercache.core.errors import SteercacheError
from steercache.core.notebook import MAX_ROWS, notebook_html, notebook_table
from steercache.manifests.sweep import SweepManifest
from steercache.queries.session import Session
from steercache.sweeps.notebook import gain_map

_SHOWN: Final = 6  # rows of each table of a cache
_TABLES: Final = {
    "runs": (
        "SELECT name, model_id AS model, modality, dtype, n_layers AS layers, complete FROM runs"
        " ORDER BY created_at DESC, run_id"
    ),
    "vectors": (
        "SELECT name, any_value(method) AS method, any_value(concept) AS concept, count(*) AS layers,"
        ' max(auc) AS "best AUC" FROM vectors WHERE control_kind IS NULL GROUP BY vector_id, name'
        " ORDER BY max(created_at) DESC, vector_id"
    ),
    "sweeps": (
        "SELECT name, status, strftime(created_at, '%Y-%m-%d %H:%M') AS saved FROM sweeps"
        " ORDER BY created_at DESC, sweep_id"
    ),
}
_GAINS: Final = """
WITH newest AS (
    SELECT sweep_id FROM sweeps WHERE manifest ->> '$.sweep' = $sweep AND manifest ->> '$.kind' = 'grid'
        AND manifest ->> '$.how.trust' IS NULL ORDER BY created_at DESC, sweep_id LIMIT 1
), found AS (
    SELECT v.name, c.target, c.layer, c.alpha, c.vector_id, t.n_correct / nullif(t.n - t.n_failed, 0) AS correct, t.n
    FROM trials t JOIN newest USING (sweep_id) JOIN cells c ON c.sweep_id = t.sweep_id AND c.cell_id = t.cell_id
    LEFT JOIN (SELECT DISTINCT vector_id, name FROM vectors) v ON v.vector_id = c.vector_id
    WHERE t.split = 'search'
)
SELECT name, target, layer, alpha, correct - (SELECT max(correct) FROM found WHERE vector_id IS NULL) AS gain, n
FROM found WHERE vector_id IS NOT NULL ORDER BY name, target, layer, alpha
"""


def cache_html(session: Session) -> str:
    """What a cache holds: the newest runs, vectors and sweeps."""
    parts = ", ".join(
        f"(SELECT list(t) FROM (FROM ({sql}) LIMIT {_SHOWN}) t) AS {name}, (SELECT count(*) FROM ({sql})) AS n_{name}"
        for name, sql in _TABLES.items()
    )
    title = f"Cache {session.cache.root.name}"
    try:
        row = session.sql(f"SELECT {parts}").to_arrow_table().to_pylist()[0]  # one statement: the index is opened once
    except SteercacheError as error:
        return notebook_html(title, [("cannot be read", error.message)])
    facts = [(name, f"{row[f'n_{name}']:,}") for name in _TABLES]
    tables = [
        notebook_table(
            list(found[0]), [list(one.values()) for one in found], name=f"newest {name}", n_rows=row[f"n_{name}"]
        )
        for name in _TABLES
        if (found := row[name])
    ]
    return notebook_html(title, facts, tables=tables)


def sweep_html(session: Session, sweep: SweepManifest) -> str:
    """What a sweep manifest asks for, and the gains of its newest stored run where there is one."""
    facts = [
        ("tasks", ", ".join(f"{task.benchmark} {task.task or ''}".strip() for task in sweep.tasks)),
        ("strengths", ", ".join(f"{alpha:g}" for alpha in sweep.strengths)),
        ("targets", ", ".join(map(str, sweep.targets))),
    ]
    pictures: list[str] = []
    try:
        rows = session.sql(_GAINS, sweep=sweep.name).to_arrow_table().to_pylist() if _has_sweeps(session) else []
    except SteercacheError as error:
        rows = []
        facts.append(("stored run", f"cannot be read: {error.message}"))
    else:
        facts.append(("stored run", f"{len(rows):,} cells on the search split" if rows else "none yet"))
    for name, target in list(dict.fromkeys((str(row["name"]), str(row["target"])) for row in rows))[:2]:
        pictures.append(_map(name, target, [r for r in rows if (r["name"], r["target"]) == (name, target)]))
    return notebook_html(f"Sweep {sweep.name}", facts, pictures=pictures)


def _has_sweeps(session: Session) -> bool:
    return session.cache.paths.sweeps.is_dir()


def _map(name: str, target: str, rows: list[dict[str, Any]]) -> str:
    layers = sorted({int(row["layer"]) for row in rows}, reverse=True)[: 4 * MAX_ROWS]
    alphas = sorted({float(row["alpha"]) for row in rows})
    gains = {(int(row["layer"]), float(row["alpha"])): row["gain"] for row in rows}
    nan = float("nan")
    grid = [[nan if gains.get((la, a)) is None else 100 * float(gains[la, a]) for a in alphas] for la in layers]
    return gain_map(grid, layers=layers, alphas=alphas, of=f"{name}, {target}")
