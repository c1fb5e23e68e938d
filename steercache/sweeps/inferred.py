"""What the arms of an older sweep took, worked out from its answers: such a sweep does not say it."""

from collections.abc import Mapping, Sequence
from typing import Any

from steercache.core.trials import Cell, Choice, Role
from steercache.sweeps.choosing import Answers, choose


def infer_choices(
    cells: Mapping[str, Cell],
    answers: Mapping[str, Answers],
    manifest: Mapping[str, Any],
    vectors: Sequence[Mapping[str, Any]],
) -> tuple[Choice, ...]:
    """A choice for every arm, in the order of the sweep's manifest, the baseline's first.

    `cells` come in order of preference. `vectors` say what the cache knows of vectors: `vector_id`, `name`, `method`,
    `concept`, `control_kind`.
    """
    known = {str(row["vector_id"]): row for row in vectors}
    arms = {str(arm["vector"]): arm for arm in manifest.get("arms", ()) if arm.get("vector")}
    lineages = {**manifest.get("lineages", {}), **{key: arm.get("lineage") for key, arm in arms.items()}}
    found = []
    for key, some in _by_arm(cells, manifest).items():
        row, arm = known.get(key, {}), arms.get(key, {})
        of, kind = arm.get("control_of"), row.get("control_kind")
        role: Role = "vector" if of is None and kind is None else "control"
        name = str(row.get("name") or arm.get("name") or key[:12])
        if key in ("", "plain"):
            role, name = ("prompting", "prompting") if not key else ("baseline", "baseline")
        at = _taken(some, [cells[one].alpha for one in some], answers)
        found.append(
            Choice(
                arm=name,
                role=role,
                cell_id=some[at],
                rule="single" if len(some) == 1 else "exhaustive" if _whole(some, answers) else "race",
                n_cells=len(some),
                vector_id=cells[some[at]].vector_id,
                control_of=of,
                control_kind=kind,
                method=row.get("method"),
                concept=row.get("concept"),
                lineage=lineages.get(key),
            )
        )
    return tuple(found)


def _by_arm(cells: Mapping[str, Cell], manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Cells by arm: "plain" is the baseline, "" the prompting baseline, a vector's id its own."""
    found: dict[str, list[str]] = {}
    for cell_id, cell in cells.items():
        found.setdefault(cell.vector_id or ("plain" if cell.prompt_id == "plain" else ""), []).append(cell_id)
    if "plain" in found:
        found["plain"] = found["plain"][:1]
    listed = ["plain", *(arm.get("vector") or "" for arm in manifest.get("arms", ()))]
    listed += list(manifest.get("vectors", {}).values())
    order = {key: at for at, key in reversed(list(enumerate(listed)))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _taken(cell_ids: Sequence[str], alphas: Sequence[float], answers: Mapping[str, Answers]) -> int:
    """Where one cell alone was asked the test split, that; else what `sweeps.choosing` takes on the search split."""
    tested = {cell for cell, _ in answers.get("test", {})}
    of_test = [at for at, one in enumerate(cell_ids) if one in tested]
    search, own = answers.get("search", {}), {*cell_ids}
    samples = sorted({sample for cell, sample in search if cell in own})
    if len(of_test) == 1 or not samples:
        return of_test[0] if of_test else 0
    return choose(cell_ids, alphas, samples, search)


def _whole(cell_ids: Sequence[str], answers: Mapping[str, Answers]) -> bool:
    """Whether every cell was asked every question of the search split that one of them was."""
    search, own = answers.get("search", {}), {*cell_ids}
    samples = {sample for cell, sample in search if cell in own}
    return all((cell, sample) in search for cell in cell_ids for sample in samples)
