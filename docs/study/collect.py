"""The tables of the study, from the cache that `run.sh` filled, and the page that shows them.

python docs/study/collect.py CACHE OUT   # OUT has the JSON that commands printed; writes results.json, and the page's tables
python docs/study/collect.py             # writes the page's tables again from results.json
"""

import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "study.md"
RESULTS = HERE / "results.json"
TASKS = {"Relation": "spatial_relationship", "Count": "counting", "Attribute": "attribute", "Entity": "entity"}
METHODS = {"mean_shift": "mean shift", "linear_probe": "probe", "sae": "SAE"}
RUNS = ("smollm2-concepts", "demo-concepts", "demo-pictures")
DIGITS = 4

Row = dict[str, Any]


def collect(cache: Path, out: Path) -> Row:
    """Everything that the page shows, as plain values rounded to four decimals."""
    import steercache
    from steercache.core.errors import NotFoundError

    opened = steercache.open(cache)
    rows: list[Row] = []
    baselines: dict[str, Row] = {}
    for task, concept in TASKS.items():
        for kind in ("", "-sae"):
            name = f"study-{task.lower()}{kind}"
            try:
                table = opened.table(name)
            except NotFoundError:  # not run: the page says so
                continue
            for split in table.splits:
                baselines.setdefault(task, {})[split.split] = {
                    "n": split.n,
                    "right": split.baseline,
                    "unread": split.unread,
                }
            screened = _read(out / f"screen-{name}.json")
            rows += [_row(table, one.name, task, concept, screened) for one in table.choices]
    _adjust(rows)
    return _rounded(
        {
            "baselines": baselines,
            "rows": rows,
            "prompting": {task: _prompting(out / f"prompting-{task.lower()}.json") for task in TASKS},
            "dose": {task: _dose(out / f"dose-{task.lower()}.json") for task in TASKS},
            "health": {run: _health(out / f"health-{run}.json") for run in RUNS},
            "versions": steercache.__version__,
        }
    )


def _row(table: Any, name: str, task: str, concept: str, screened: Any) -> Row:
    """One vector: the cell it took, its gain on both splits, its nulls, and its rank by prediction."""
    search, test = table.row("search", name), table.row("test", name)
    found: Row = {
        "task": task,
        "concept": concept,
        "method": search.method,
        "vector": name,
        "layer": search.cell.layer,
        "alpha": search.cell.alpha,
        "target": search.cell.target,
        "search": _gain(search),
        "test": None if test is None else _gain(test),
        "kl": None if (test or search).damage is None else (test or search).damage.mean_nats,
        "nulls": [{"kind": c.kind, "gain": c.gain} for c in search.controls],
        "null_p": search.rank_p,
    }
    for predicted in [] if screened is None else screened["tasks"]:
        found["predicted_p"] = _of(predicted["nulls"], name)["p"]
        found["predicted"] = _of(predicted["vectors"], name)["gain"]
    return found


def _of(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row["vector"] == name)


def _gain(row: Any) -> Row:
    c = row.comparison
    return {
        "n": c.n,
        "before": c.before,
        "after": c.after,
        "gain": c.gain.estimate,
        "low": c.gain.low,
        "high": c.gain.high,
        "helped": c.mcnemar.helped,
        "hurt": c.mcnemar.hurt,
        "unread": c.unread_after,
        "p": c.p_clustered,
        "detectable": c.detectable,
    }


def _adjust(rows: Sequence[Row]) -> None:
    """Holm's p values over every test of the test split in the study."""
    from steercache.stats.paired import holm

    tested = [row["test"] for row in rows if row["test"] is not None]
    for test, p in zip(tested, holm([test["p"] for test in tested]) if tested else (), strict=True):
        test["p_holm"] = float(p)


def _prompting(path: Path) -> Row | None:
    printed = _read(path)
    if printed is None:
        return None
    (row,) = [
        r for split in printed["splits"] if split["split"] == "test" for r in split["rows"] if r["role"] == "prompting"
    ]
    c = row["comparison"]
    interval = {"gain": c["gain"]["estimate"], "low": c["gain"]["low"], "high": c["gain"]["high"]}
    return {"n": c["n"], "before": c["before"], "after": c["after"], **interval, "p": c["p_clustered"]}


def _dose(path: Path) -> list[Row] | None:
    printed = _read(path)
    if printed is None:
        return None
    rows = []
    for cell in printed["cells"]:
        gain = cell["gain"]
        rows.append(
            {
                **{key: cell["cell"][key] for key in ("layer", "alpha", "target")},
                "vector": cell["vector"],
                "n": cell["n_seen"],
                "right": cell["right"],
                "unread": cell["unread"],
                "gain": gain["estimate"],
                "low": gain["low"],
                "high": gain["high"],
                "p_family": cell["p_family"],
            }
        )
    return sorted(rows, key=lambda row: float(row["alpha"]))


def _health(path: Path) -> list[Row] | None:
    printed = _read(path)
    if printed is None:
        return None
    names = ("kind", "n_rows", "explained_variance", "cosine", "l0_mean", "n_dead", "n_dense")
    return [{name: row[name] for name in names} for row in printed["kinds"] if row["kind"] != "all"]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() and path.stat().st_size else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


def tables(results: Row) -> dict[str, str]:
    """The page's tables in Markdown, by name."""
    return {
        "baselines": _baselines(results),
        "gains": _gains(results),
        "controls": _controls(results),
        "dose": _doses(results),
        "health": _healths(results),
    }


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _baselines(results: Row) -> str:
    rows = []
    for task, splits in results["baselines"].items():
        prompting = results["prompting"].get(task)
        said = (
            "not run"
            if prompting is None
            else f"{prompting['gain']:+.3f} ({prompting['low']:+.3f} to {prompting['high']:+.3f})"
        )
        rows.append([task, *(f"{splits[s]['right']:.3f}" for s in ("search", "test")), str(splits["test"]["n"]), said])
    return _markdown(
        ["task", "search split", "test split", "questions of a split", "prompting, test split (95 %)"], rows
    )


def _gains(results: Row) -> str:
    rows = []
    for row in results["rows"]:
        test = row["test"]
        where = f"{row['layer']}, {row['alpha']:g}, {row['target']}"
        shown = [row["task"], METHODS[row["method"]], where, f"{row['search']['gain']:+.3f}"]
        if test is not None:
            shown += [
                f"{test['gain']:+.3f} ({test['low']:+.3f} to {test['high']:+.3f})",
                f"+{test['helped']} -{test['hurt']}",
                f"{test['p']:.3f}",
                f"{test['p_holm']:.3f}",
                "-" if test["detectable"] is None else f"{test['detectable']:.3f}",
                "-" if row["kl"] is None else f"{row['kl']:.3f}",
            ]
        rows.append(shown)
    columns = ["task", "method", "layer, strength, target", "gain, search", "gain, test (95 %)", "answers changed"]
    return _markdown([*columns, "p", "p (Holm)", "could show", "KL"], rows)


def _controls(results: Row) -> str:
    rows = []
    for row in results["rows"]:
        nulls = row["nulls"]
        gains = sorted(one["gain"] for one in nulls)
        kinds = sorted({one["kind"].replace("_", " ").replace("sae ", "SAE: ") for one in nulls})
        rows.append(
            [
                row["task"],
                METHODS[row["method"]],
                "-" if row.get("predicted") is None else f"{row['predicted']:+.3f}",
                f"{row['search']['gain']:+.3f}",
                "-" if row.get("predicted_p") is None else f"{row['predicted_p']:.3f}",
                str(len(nulls)) if nulls else "none run",
                f"{gains[0]:+.3f} to {gains[-1]:+.3f}" if nulls else "-",
                f"{row['null_p']:.3f}" if nulls else "-",
                ", ".join(kinds) or "-",
            ]
        )
    columns = [
        "task",
        "method",
        "gain, predicted",
        "gain, search",
        "p among predicted nulls",
        "nulls run",
        "their gains",
        "p among them",
    ]
    return _markdown([*columns, "kinds"], rows)


def _doses(results: Row) -> str:
    rows = []
    for task, some in results["dose"].items():
        for row in some or []:
            gain = f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            family = "-" if row["p_family"] is None else f"{row['p_family']:.3f}"
            where = f"{row['vector']}, layer {row['layer']}, {row['target']}"
            rows.append([task, where, f"{row['alpha']:g}", f"{row['right']:.3f}", gain, family, f"{row['unread']:.1%}"])
    return _markdown(["task", "vector, layer, target", "strength", "right", "gain (95 %)", "p, family", "unread"], rows)


def _healths(results: Row) -> str:
    rows = []
    for run, some in results["health"].items():
        for row in some or []:
            explained = row["explained_variance"]
            values = ["-" if explained is None else f"{explained:.3f}", f"{row['cosine']:.3f}", f"{row['l0_mean']:.1f}"]
            rows.append([run, row["kind"], f"{row['n_rows']:,}", *values, f"{row['n_dead']:,}", f"{row['n_dense']:,}"])
    columns = ["run", "rows", "number", "explained variance", "cosine", "L0", "dead", "dense"]
    return _markdown(columns, rows)


BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Row) -> str:
    """The page with its tables written anew."""
    made = tables(results)
    return BLOCK.sub(lambda m: f"{m[1]}\n{made[m[2]]}\n\n{m[3]}", page)


def write_csv(results: Row, path: Path) -> None:
    """The main table for other tools: one line per vector."""
    flat = []
    for row in results["rows"]:
        plain = {key: value for key, value in row.items() if key not in ("search", "test", "nulls")}
        each = {f"{split}_{key}": value for split in ("search", "test") for key, value in (row[split] or {}).items()}
        flat.append({**plain, **each, "n_nulls": len(row["nulls"])})
    names = list(dict.fromkeys(name for row in flat for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def main(words: Sequence[str]) -> int:
    """Collect, if a cache is named, and write the tables into the page."""
    if words:
        results = collect(Path(words[0]), Path(words[1]))
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_csv(results, HERE / "gains.csv")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
