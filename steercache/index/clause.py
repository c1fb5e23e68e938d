"""A target as SQL: one condition or one SELECT over the tokens of a prompt, checked, written canonically, ready to run.

What a clause may be is decided on the syntax tree of DuckDB's own parser. Two texts that differ in spaces, comments or capitals
of keywords and column names are one clause: `Clause.text` is its identity.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Final

import duckdb
import numpy as np

from steercache.core.errors import QueryError
from steercache.index.allowed import check_tree

PREFIX: Final = "sql:"  # what tells a clause from a target's name
SAMPLE, ROW = "_sample", "_row"  # columns of the table that clauses do not see
_MAX_CHARS: Final = 10_000
_MAX_DEPTH: Final = 50  # DuckDB's parser takes seconds for hundreds
_TABLE_FUNCTIONS: Final = frozenset({"generate_series", "range", "unnest"})
_STATEMENTS: Final = ("select", "from", "with")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A checked clause. `text` is canonical; `sql` is what runs over `tokens`, over all samples at once if `together`.

    `condition`: `sql` chooses nothing yet and has a column `hit`. `words` are the names of columns that occur, `layers`
    those of `activation(layer)`, `vectors` the (name, layer) of `vector(name, layer)`. A `weighted` clause returns a weight per
    token, an `alone` one judges each token by itself.
    """

    text: str
    sql: str = field(repr=False)
    words: frozenset[str] = field(repr=False)
    layers: tuple[int, ...]
    vectors: tuple[tuple[str, int], ...]
    condition: bool = field(repr=False)
    together: bool = field(repr=False)
    weighted: bool
    alone: bool


def is_clause(target: object) -> bool:
    """Whether a target is written as SQL."""
    return isinstance(target, str) and target.lstrip()[: len(PREFIX)].lower() == PREFIX


def weighted_clause(where: str, weight: str) -> str:
    """The SELECT of a condition and an expression for the weight. Raises QueryError."""
    tree, _ = _condition(where), _condition(weight)
    keyword = "QUALIFY" if any(node.get("class") == "WINDOW" for node in _nodes(tree)) else "WHERE"
    return read_clause(f"SELECT position, ({weight}\n) AS weight FROM tokens {keyword} ({where}\n)").text


@lru_cache(maxsize=256)
def read_clause(text: str) -> Clause:
    """A clause from its text, with or without the prefix `sql:`.

    Raises:
        QueryError: it is not one condition or SELECT over `tokens`, or uses something that is not allowed in it.
    """
    said = text.strip()
    if is_clause(said):
        said = said[len(PREFIX) :].strip()
    said = said.rstrip("; \n")
    if not said:
        raise QueryError("the target has no condition", hint="such as sql: kind = 'image' and patch_row < 3")
    if len(said) > _MAX_CHARS:
        raise QueryError(f"the target has {len(said):,} characters, more than {_MAX_CHARS:,}")
    canonical = _canonical(said)
    is_statement = _is_statement(canonical)
    tree = _tree(canonical, canonical) if is_statement else _condition(canonical)
    _check(tree, canonical)
    layers, vectors = _activations(tree), _vectors(tree)
    selected = tree["statements"][0]["node"]
    together = _is_plain(selected) and not _gathers(tree)
    words = frozenset(str(n["column_names"][-1]).lower() for n in _nodes(tree) if n.get("class") == "COLUMN_REF")
    alone = together and not any(n.get("class") == "WINDOW" for n in _nodes(tree)) and not layers
    weighted = is_statement and _returns_weight(selected)
    _rewrite(tree, together=together)
    if not is_statement:
        selected["select_list"][:0] = [_column(SAMPLE), _column("position")]
    elif together:
        selected["select_list"].append(_column(SAMPLE))
    return Clause(
        text=canonical,
        sql=_written(tree),
        words=words,
        layers=layers,
        vectors=vectors,
        condition=not is_statement,
        together=together,
        weighted=weighted,
        alone=alone,
    )


def with_vector_names(clause: Clause, names: Mapping[str, str]) -> Clause:
    """The clause with other names of its vectors: their ids, so that its text says exactly which they are."""
    parts = _parts(clause.text)
    for i in range(2, len(parts)):
        if [one.lower() for one, _ in parts[i - 2 : i]] == ["vector", "("] and parts[i][1] == "string_const":
            known = names.get(parts[i][0][1:-1].replace("''", "'"))
            if known is not None:
                parts[i] = ("'" + known.replace("'", "''") + "'", "string_const")
    return read_clause(_joined(parts))


def _parts(text: str) -> list[tuple[str, str]]:
    """Tokens of DuckDB's own lexer with their kinds, comments left out; unquoted words in lower case."""
    raw = text.encode()
    found = duckdb.tokenize(text)
    parts = []
    for i, (start, kind) in enumerate(found):
        stop = found[i + 1][0] if i + 1 < len(found) else len(raw)
        said, name = raw[start:stop].decode().strip(), kind.name
        if name == "comment":
            continue
        if name in ("identifier", "keyword") and not said.startswith('"'):
            said = said.lower()
        parts.append((said, name))
    return parts


def _joined(parts: list[tuple[str, str]]) -> str:
    text = ""
    for i, (said, _) in enumerate(parts):
        before = parts[i - 1] if i else ("", "")
        tight = (
            said in (",", ")", "]", ".") or before[0] in ("(", "[", ".") or (said == "(" and before[1] == "identifier")
        )
        text += said if tight or not text else f" {said}"
    return text


def _canonical(text: str) -> str:
    try:
        text.encode()
        parts = _parts(text)
        depth = np.cumsum([(said == "(") - (said == ")") for said, _ in parts])
        if depth.max(initial=0) > _MAX_DEPTH:
            raise QueryError(f"the target has more than {_MAX_DEPTH} brackets in each other")
        return _joined(parts) or text
    except (UnicodeError, duckdb.Error) as error:
        raise QueryError("the target is no SQL: its characters or quotes do not end") from error


@cache
def _functions() -> tuple[frozenset[str], frozenset[str]]:
    """Names of DuckDB's functions that gather rows into one value, and of those that give another value every time."""
    with duckdb.connect(":memory:") as con:
        rows = con.execute("SELECT lower(function_name), function_type, stability FROM duckdb_functions()").fetchall()
    gathering = frozenset(name for name, kind, _ in rows if kind == "aggregate")
    fickle = frozenset(name for name, _, stability in rows if stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY"))
    return gathering, fickle | {"localtime", "localtimestamp", "current_time", "current_timestamp"}


def _is_statement(canonical: str) -> bool:
    """Whether the text is a whole SELECT, in brackets or not; what only begins with one, `(select ...) = 1`, is none."""
    if canonical.split(maxsplit=1)[0].lstrip("(") not in _STATEMENTS:
        return False
    if not canonical.startswith("("):
        return True
    with duckdb.connect(":memory:") as con:
        try:
            return bool(con.extract_statements(canonical))
        except (duckdb.Error, UnicodeError):
            return False


def _tree(sql: str, said: str) -> Any:
    """DuckDB's syntax tree of one SELECT. Raises QueryError."""
    with duckdb.connect(":memory:") as con:
        try:
            statements = con.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError("a target is one condition or one SELECT over the tokens", place=said)
            if statements[0].named_parameters:
                raise QueryError("a target has no parameters", place=said, hint="write the values into it")
            check_tree(con, sql)
            serialized = con.execute("SELECT json_serialize_sql($sql::VARCHAR)", {"sql": sql}).fetchall()[0][0]
        except (duckdb.Error, UnicodeError) as error:
            message = str(error).strip().partition("\n")[0]
            raise QueryError(f"the target is no condition: {message}", place=said, hint=HINT) from error
    return json.loads(serialized)


HINT: Final = "a condition such as kind = 'image' and patch_row < 3, or SELECT position, ... AS weight FROM tokens"


def _written(tree: Any) -> str:
    with duckdb.connect(":memory:") as con:
        return str(con.execute("SELECT json_deserialize_sql($tree::JSON)", {"tree": json.dumps(tree)}).fetchall()[0][0])


def _condition(said: str) -> Any:
    """The tree of a SELECT of one expression, named `hit`; a text that is more than an expression is refused."""
    tree = _tree(f"SELECT {said}\n FROM tokens", said)
    node = tree["statements"][0]["node"]
    if not _is_plain(node) or len(node["select_list"]) != 1 or node["where_clause"] or node["select_list"][0]["alias"]:
        raise QueryError("a target is one condition over the tokens", place=said, hint=HINT)
    node["select_list"][0]["alias"] = "hit"
    return tree


def _is_plain(node: dict[str, Any]) -> bool:
    """Whether it is SELECT ... FROM tokens, of which the rows of several samples can be asked at once."""
    source = node.get("from_table") or {}
    return (
        node["type"] == "SELECT_NODE"
        and source.get("type") == "BASE_TABLE"
        and source.get("table_name", "").lower() == "tokens"
        and not (node.get("cte_map") or {}).get("map")
        and not node["group_expressions"]
        and not node["having"]
        and all(one["type"] == "ORDER_MODIFIER" for one in node["modifiers"])
    )


def _gathers(tree: Any) -> bool:
    """Whether something looks at rows beyond a window's: a subquery, or an aggregate."""
    gathering, _ = _functions()
    return any(
        n.get("class") == "SUBQUERY"
        or (n.get("class") == "FUNCTION" and str(n.get("function_name", "")).lower() in gathering)
        for n in _nodes(tree)
    )


def _check(tree: Any, said: str) -> None:
    """Refuse other tables, and whatever gives another answer another time or for another batch."""
    _, fickle = _functions()
    whole = {"tokens", *(str(n["alias"]).lower() for n in _nodes(tree) if n.get("type") == "BASE_TABLE" and n["alias"])}
    parts = {str(e["key"]).lower() for n in _nodes(tree) for e in (n.get("cte_map") or {}).get("map") or ()}
    if any(node.get("type") == "EXPRESSION_LIST" for node in _nodes(tree)):
        raise QueryError("VALUES is not allowed in a target", place=said, hint="a list of values: position in (1, 2)")
    for node in _nodes(tree):
        kind, name = node.get("type"), str(node.get("function_name", "")).lower()
        if kind == "BASE_TABLE":
            table = str(node.get("table_name", "")).lower()
            if node.get("schema_name") or node.get("catalog_name") or table not in parts | {"tokens"}:
                raise QueryError(
                    f"a target reads the table tokens only, not {node.get('table_name')}", place=said, hint=HINT
                )
        elif kind == "TABLE_FUNCTION":
            called = str(node["function"].get("function_name", "")).lower()
            if called not in _TABLE_FUNCTIONS:
                raise QueryError(f"{called}() is not allowed in a target", place=said, hint=HINT)
        elif kind == "SHOW_REF" or node.get("class") == "STAR":
            raise QueryError("a target names its columns", place=said, hint=HINT)
        if node.get("sample"):
            raise QueryError("a target selects the same tokens every time: no sampling", place=said, hint=HINT)
        if node.get("class") == "FUNCTION" and name in fickle:
            raise QueryError(f"{name}() gives another value another time: not in a target", place=said, hint=HINT)
        if node.get("class") == "COLUMN_REF":
            column = str(node["column_names"][-1]).lower()
            if column in (SAMPLE, ROW) or column in whole:  # a table's name is its whole row
                raise QueryError(f"tokens have no column {column}", place=said, hint=HINT)
            if column in fickle:
                raise QueryError(f"{column} is another value another time: not in a target", place=said, hint=HINT)
        if kind == "LIMIT_MODIFIER" and not _ordered(tree, node):
            raise QueryError("LIMIT without ORDER BY picks any tokens", place=said, hint="ORDER BY position LIMIT ...")


def _ordered(tree: Any, limit: dict[str, Any]) -> bool:
    lists = [n["modifiers"] for n in _nodes(tree) if isinstance(n.get("modifiers"), list)]
    own = next(some for some in lists if any(one is limit for one in some))
    return any(one["type"] == "ORDER_MODIFIER" for one in own)


def _activations(tree: Any) -> tuple[int, ...]:
    layers = set()
    for node in _calls(tree, "activation"):
        texts = _constants(node)
        if len(texts) != 1 or not texts[0].isdecimal():
            raise QueryError(
                "activation() takes a layer's number", hint="activation(12): this token's hidden state there"
            )
        layers.add(int(texts[0]))
    return tuple(sorted(layers))


def _vectors(tree: Any) -> tuple[tuple[str, int], ...]:
    found = set()
    for node in _calls(tree, "vector"):
        texts = _constants(node)
        if len(texts) != 2 or not texts[1].isdecimal():
            raise QueryError("vector() takes a vector's name and a layer", hint="vector('love', 12)")
        found.add((texts[0], int(texts[1])))
    return tuple(sorted(found))


def _calls(tree: Any, name: str) -> list[dict[str, Any]]:
    return [n for n in _nodes(tree) if n.get("class") == "FUNCTION" and str(n.get("function_name", "")).lower() == name]


def _constants(call: dict[str, Any]) -> list[str]:
    """The arguments' texts; nothing for an argument that is no constant."""
    given = [one["expression"] for one in call["arguments"]]
    texts = [
        str(one["literal"].get("text", "")) for one in given if one.get("class") == "CONSTANT" and "literal" in one
    ]
    return texts if len(texts) == len(given) else []


def _returns_weight(node: dict[str, Any]) -> bool:
    """Whether the SELECT has a column `weight`; of a UNION the first part names the columns."""
    while node["type"] != "SELECT_NODE":
        node = node["children"][0]
    names = [str(e.get("alias") or (e.get("column_names") or [""])[-1]).lower() for e in node["select_list"]]
    return "weight" in names


def _rewrite(tree: Any, *, together: bool) -> None:
    """Keep windows within a sample, and tell `activation` which token it is about."""
    for node in list(_nodes(tree)):
        if together and node.get("class") == "WINDOW":
            node["partitions"].insert(0, _column(SAMPLE))
    for call in _calls(tree, "activation"):
        (layer,) = call["arguments"]
        empty = {"name": "", "expression": _constant("")}
        call["arguments"] = [empty, dict(empty), layer, {"name": "", "expression": _column(ROW)}]


def _column(name: str) -> dict[str, Any]:
    place = {"query_location": 0, "query_location_length": 0}
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": [name], **place}


def _constant(text: str) -> dict[str, Any]:
    place = {"query_location": 0, "query_location_length": 0}
    literal = {"kind": "STRING", "text": text}
    return {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "literal": literal, **place}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in the tree, without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
