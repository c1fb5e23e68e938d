"""What a query may be made of, judged on the syntax tree that DuckDB's own parser makes of it."""

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from steercache.core.errors import QueryError

# Functions that make rows. Everything else in DuckDB of that kind reads files, takes raw pointers, or turns settings.
TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_functions",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "generate_series",
        "json_each",
        "json_tree",
        "pragma_storage_info",
        "pragma_table_info",
        "range",
        "unnest",
    }
)
# One call of these takes any amount of memory or time, past the memory limit and deaf to an interrupt.
UNBOUNDED = frozenset(
    {
        "array_resize",
        "bitstring",
        "damerau_levenshtein",
        "editdist3",
        "format",
        "levenshtein",
        "list_resize",
        "lpad",
        "printf",
        "repeat",
        "rpad",
        "sleep_ms",
    }
)
# These reach into the database itself: its log, its sequences, its internal encodings (which trust their input).
INTERNAL = frozenset(
    {"combine", "create_sort_key", "finalize", "index_key", "invoke", "nextval", "setval", "to_aggregate_state"}
    | {"json_deserialize_sql", "json_serialize_plan", "write_log", "current_setting"}
)


LIST_MAKERS = frozenset({"generate_series", "range"})  # in a SELECT list; as table functions they make rows, in pieces
MAX_LIST = 1_000_000
MAX_TABLES = 100  # planning a join of hundreds of tables takes minutes and cannot be interrupted
MAX_EXPANDED_TABLES = 1000  # common table expressions put into each other double with every step
MAX_SELECTS = 1000


def check_tree(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse table functions beyond those listed, scalar functions that no limit holds, and what would plan for ever.

    Raises:
        QueryError: names the function, or the count that is too high.
    """
    serialized = con.execute("SELECT json_serialize_sql($sql::VARCHAR)", {"sql": sql}).fetchall()[0][0]
    try:
        tree = json.loads(serialized)
    except RecursionError as error:
        raise QueryError("the SQL is nested too deeply", hint="use WITH instead of subqueries") from error
    if tree.get("error"):
        raise QueryError(f"this SQL cannot be checked: {tree.get('error_message')}")
    makes_rows = {id(node["function"]) for node in _nodes(tree) if node.get("type") == "TABLE_FUNCTION"}
    for node in _nodes(tree):
        _check_function(node)
        if id(node) not in makes_rows:
            _check_list(node)
    _check_size(tree)


def _check_function(node: dict[str, Any]) -> None:
    name = str(node.get("function_name", "")).lower()
    if node.get("type") == "TABLE_FUNCTION":
        called = str(node["function"].get("function_name", "")).lower()
        if called not in TABLE_FUNCTIONS:
            allowed = ", ".join(sorted(TABLE_FUNCTIONS))
            raise QueryError(f"{called}() is not allowed in a query", hint=f"table functions allowed: {allowed}")
    elif name in UNBOUNDED or name in INTERNAL or name.startswith("__"):
        raise QueryError(f"{name}() is not allowed in a query", hint="compute it from the result instead")


def _check_list(node: dict[str, Any]) -> None:
    """Refuse a list of unknown or great length: one call makes it, past the memory limit and deaf to an interrupt."""
    name = str(node.get("function_name", "")).lower()
    if name not in LIST_MAKERS:
        return
    texts = [str(a["expression"].get("literal", {}).get("text", "")) for a in node.get("arguments") or ()]
    if not texts or not all(text.isdecimal() and len(text) <= 7 and int(text) <= MAX_LIST for text in texts):
        raise QueryError(
            f"{name}() may make a list larger than {MAX_LIST:,} values, past the memory limit",
            hint=f"make rows of it: FROM {name}(...); as a list it takes numbers up to {MAX_LIST:,}",
        )


def _check_size(tree: Any) -> None:
    bodies: dict[str, list[Any]] = {}
    n_selects = 0
    for node in _nodes(tree):
        n_selects += "select_list" in node
        for entry in (node.get("cte_map") or {}).get("map") or ():
            bodies.setdefault(str(entry["key"]).lower(), []).append(entry["value"])
    n_tables = len(_tables(tree))
    if n_tables > MAX_TABLES or n_selects > MAX_SELECTS:
        raise QueryError(
            f"too large to plan: {n_tables} tables and {n_selects} selects", hint="put lists into a binding: IN $names"
        )
    if _expanded(tree, bodies) > MAX_EXPANDED_TABLES:
        raise QueryError(
            "too large to plan: its WITH parts multiply each other", hint="name each part once, or split the query"
        )


def _tables(tree: Any) -> list[str]:
    return [str(n.get("table_name", "")).lower() for n in _nodes(tree) if n.get("type") == "BASE_TABLE"]


def _expanded(tree: Any, bodies: dict[str, list[Any]]) -> int:
    """Table references once every WITH part is put where it is named; counting stops past the limit."""
    sizes: dict[str, int] = {}

    def size(name: str, inside: frozenset[str]) -> int:
        if name not in bodies or name in inside:  # a table, or a recursive part naming itself
            return 1
        if name not in sizes:
            within = inside | {name}
            sizes[name] = 1 + sum(size(t, within) for body in bodies[name] for t in _tables(body))
        return sizes[name]

    return sum(size(name, frozenset()) for name in _tables(tree))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in the tree, without recursion: a query may nest deeper than Python's stack."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
