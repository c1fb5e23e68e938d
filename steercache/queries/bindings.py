"""Values for a query's parameters: typed by its header, runs and vectors looked up, a run chosen where none is given."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from steercache.core.errors import NotFoundError, QueryError
from steercache.core.excerpts import excerpt
from steercache.core.ids import SHORT_ID
from steercache.queries.library import NEWEST, Param, ParamType, Query, with_article

Rows = list[tuple[Any, ...]]
RunSql = Callable[[str, list[Any]], Rows]  # SQL of ours and its values -> rows of the index
Lookup = Callable[[str], str]  # a name, id or prefix -> id
Choose = Callable[[str | None, str | None], tuple[str, str]]  # SAE and run, either left open -> ids of both
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def bind(
    query: Query, given: Mapping[str, Any], *, ask: RunSql, find_run: Lookup, find_vector: Lookup, find_encoding: Choose
) -> dict[str, Any]:
    """Values for every parameter of `query`. One with an SAE is about one encoding: what is left open of SAE and run is that
    encoding's, where it is the only one that fits.

    Raises:
        QueryError: a name that the query does not declare, a value missing or of the wrong type, several runs to choose from.
        NotFoundError: no such run or vector, or no run has the concept.
    """
    unknown = sorted(given.keys() - query.params.keys())
    missing = sorted(n for n, p in query.params.items() if p.required and n not in given)
    if unknown or missing:
        raise QueryError(_names_problem(query, unknown, missing), hint=f"its header says what {query.name} takes")
    values = {n: _typed(n, p, given[n]) if n in given else p.default for n, p in query.params.items()}
    lookups = {"run": find_run, "vector": find_vector}
    for name, param in query.params.items():
        if param.type in lookups and name in given and values[name] is not None:
            values[name] = lookups[param.type](values[name])
    for name, param in query.params.items():
        chosen_for_us = param.type == "run" and (name not in given or given[name] is None)
        if chosen_for_us and param.default in NEWEST:
            values[name] = newest_run(ask, modality=NEWEST[param.default], concept=values.get("concept"), param=name)
    for name in [name for name, param in query.params.items() if param.type == "sae"]:
        values[name], values["run"] = find_encoding(values[name], values.get("run"))
    for name in [name for name, param in query.params.items() if param.type == "concept"]:
        if values[name] is not None:
            _check_concept(ask, values[name], values.get("run"))
    return values


def _check_concept(ask: RunSql, concept: str, run_id: str | None) -> None:
    """Raises NotFoundError for a concept that no sample (of the run, where there is one) is labelled with."""
    known = [
        row[0]
        for row in ask(
            "SELECT DISTINCT concept FROM samples WHERE concept IS NOT NULL AND (?::VARCHAR IS NULL OR run_id = ?)"
            " ORDER BY 1",
            [run_id, run_id],
        )
    ]
    if concept not in known:
        raise _no_concept("no sample" if run_id is None else "no sample of the run", concept, known)


def newest_run(
    ask: RunSql, *, modality: str | None, concept: str | None, labelled: bool = False, param: str = "run"
) -> str:
    """The newest complete run of a modality that has the concept, or any concept at all with `labelled`.

    Raises:
        NotFoundError: there is none; lists those that exist.
        QueryError: several models have such runs, so the newest would be a guess.
    """
    wanted = [modality, modality, concept, concept, labelled]
    found = ask(
        "SELECT run_id, name, model_id, model_fingerprint, complete FROM runs r"
        " WHERE row_kind IS DISTINCT FROM 'sample_target'"  # gradients are no activations: they are asked for by name
        " AND (?::VARCHAR IS NULL OR modality = ?)"
        " AND (?::VARCHAR IS NULL OR EXISTS (FROM samples s WHERE s.run_id = r.run_id AND s.concept = ?))"
        " AND (NOT ? OR EXISTS (FROM samples s WHERE s.run_id = r.run_id AND s.concept IS NOT NULL))"
        " ORDER BY created_at DESC, run_id",
        wanted,
    )
    complete = [row for row in found if row[4]]
    if not complete:
        raise _no_run(ask, found, _kind(modality, labelled=labelled), concept, param)
    if len({fingerprint for _, _, _, fingerprint, _ in complete}) > 1:
        shown = "\n".join(f"  {name} ({model}) {run_id[:SHORT_ID]}" for run_id, name, model, _, _ in complete[:8])
        raise QueryError(f"runs of several models fit; name one:\n{shown}", hint=_say_run(param, complete[0][1]))
    return str(complete[0][0])


def _kind(modality: str | None, *, labelled: bool) -> str:
    return f"complete {f'{modality} ' if modality else ''}run{' with concepts' if labelled else ''}"


def _no_run(ask: RunSql, found: Rows, kind: str, concept: str | None, param: str) -> NotFoundError:
    if found:
        names = ", ".join(str(row[1]) for row in found)
        hint = f"finish its build, or take it as it is: {_say_run(param, found[0][1])}"
        return NotFoundError(f"no {kind} yet; not complete: {names}", hint=hint)
    if concept is None:
        return NotFoundError(f"there is no {kind} yet", hint="steercache build smollm2-concepts")
    known = [row[0] for row in ask("SELECT DISTINCT concept FROM samples WHERE concept IS NOT NULL ORDER BY 1", [])]
    return _no_concept(f"no {kind}", concept, known)


def _no_concept(what: str, concept: str, known: list[str]) -> NotFoundError:
    close = difflib.get_close_matches(concept, known, n=1, cutoff=0.5)
    has = f"; concepts: {', '.join(known)}" if known else "; no sample is labelled with a concept"
    hint = f"did you mean {close[0]}?" if close else "steercache query concept_counts"
    return NotFoundError(f"{what} has the concept {concept!r}{has}", hint=hint)


def _say_run(param: str, name: str) -> str:
    return f"-p {param}={name} at the terminal, {param}={name!r} in Python"


def _names_problem(query: Query, unknown: list[str], missing: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{query.name} needs a value for {', '.join(missing)}")
    if unknown:
        parts.append(f"{query.name} has no parameter {', '.join(unknown)}")
    declared = ", ".join(f"{n} ({p.type}{'' if p.required else ', optional'})" for n, p in query.params.items())
    return f"{'; '.join(parts)}; its parameters: {declared or 'none'}"


def _typed(name: str, param: Param, value: Any) -> Any:
    """`value` as the header's type says; text is read as it would be at the terminal."""
    if value is None:
        if param.required:
            raise QueryError(f"{name} must have a value", hint=param.help)
        return None
    typed = _READERS[param.type](value)
    if typed is None:
        raise QueryError(f"{name}: {excerpt(value)} is not {with_article(param.type)}", hint=param.help)
    if param.minimum is not None and typed < param.minimum:
        raise QueryError(f"{name}: {excerpt(value)} is below {param.minimum}", hint=param.help)
    return typed


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        value = int(value) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return _TRUTH.get(value.strip().lower())
    return value if isinstance(value, bool) else None


_READERS: dict[ParamType, Callable[[Any], Any]] = {
    "text": _text,
    "run": _text,
    "vector": _text,
    "sae": _text,
    "concept": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}


def guessed(value: str) -> Any:
    """A value from the terminal for SQL that declares no types: null, true/false, a number, else text; quotes make it text.

    >>> [guessed(v) for v in ("3", "0.5", "true", "null", "'3'", "counting")]
    [3, 0.5, True, None, '3', 'counting']
    """
    if len(value) >= 2 and value[0] == value[-1] and value[0] in ("'", '"'):
        return value[1:-1]
    if value.lower() in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[value.lower()]
    whole = _integer(value)
    return whole if whole is not None else (number if (number := _number(value)) is not None else value)
