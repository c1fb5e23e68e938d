"""Joining labels to samples, and anchor spans to tokens.

One set of SQL for the index, for mending labels in it, and for reading the files without it, so that the three agree.
"""

import duckdb

from steercache.index.roles import is_anchor, is_control
from steercache.index.schemas import ANNOTATIONS, SAMPLES, TOKENS

LABELS = tuple(n for n in ANNOTATIONS.names if n not in ("sample_id", "ordinal"))
_SAMPLE = ", ".join(f"s.{n}" for n in SAMPLES.names)
_LABEL = ", ".join(f"a.{n}" for n in LABELS if n != "meta") + ", CAST(a.meta AS JSON) AS meta"
_TOKEN = ", ".join(f"t.{n}" for n in TOKENS.names if n != "kind") + ", CAST(t.kind AS token_kind) AS kind"
_ON = "a.dataset = s.dataset AND a.sample_id = s.sample_id AND a.ordinal = s.ordinal"
_ROLES = f"{is_anchor('t', 's')} AS is_anchor, {is_control('t', 's')} AS is_control"

# Shards of one run as rows of `samples` and `tokens`, without run_id; `shard_idx` is a column of the files' views.
SAMPLES_OF_SHARDS = f"SELECT s.shard_idx, {_SAMPLE}, {_LABEL} FROM samples_file s LEFT JOIN labels_file a ON {_ON}"
TOKENS_OF_SHARDS = (
    f"SELECT t.shard_idx, {_TOKEN}, {_ROLES} FROM tokens_file t"
    f" LEFT JOIN (SELECT s.sample_idx, a.anchors, a.controls FROM samples_file s JOIN labels_file a ON {_ON}) s"
    " ON t.sample_idx = s.sample_idx ORDER BY t.sample_idx, t.position"
)
# The same over the files of many runs: `run_id` and `shard_idx` are columns of the registered files.
SAMPLES_OF_RUNS = (
    f"SELECT s.run_id, s.shard_idx, {_SAMPLE}, {_LABEL} FROM samples_file s"
    f" LEFT JOIN labels_file a ON a.run_id = s.run_id AND {_ON}"
)
TOKENS_OF_RUNS = (
    f"SELECT t.run_id, t.shard_idx, {_TOKEN}, {_ROLES} FROM tokens_file t"
    f" LEFT JOIN (SELECT s.run_id, s.sample_idx, a.anchors, a.controls FROM samples_file s"
    f" JOIN labels_file a ON a.run_id = s.run_id AND {_ON}) s"
    " ON t.run_id = s.run_id AND t.sample_idx = s.sample_idx"
)


def relabel_samples(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Give a run's samples the labels of the view `labels_file`; rows that have them already are left alone."""
    old = ", ".join(f"samples.{n}" for n in LABELS)
    con.execute(
        f"UPDATE samples SET {', '.join(f'{n} = n.{n}' for n in LABELS)}"
        f" FROM (SELECT s.sample_idx, {_LABEL} FROM samples s LEFT JOIN labels_file a ON {_ON} WHERE s.run_id = $run) n"
        " WHERE samples.run_id = $run AND samples.sample_idx = n.sample_idx"
        f" AND row({old}) IS DISTINCT FROM row({', '.join(f'n.{n}' for n in LABELS)})",
        {"run": run_id},
    )


def relabel_tokens(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Give a run's tokens the roles that their samples' anchors say; rows that have them already are left alone."""
    con.execute(
        "UPDATE tokens SET is_anchor = n.is_anchor, is_control = n.is_control"
        f" FROM (SELECT t.rowid AS place, {_ROLES} FROM tokens t"
        " JOIN samples s ON t.run_id = s.run_id AND t.sample_idx = s.sample_idx WHERE t.run_id = $run) n"
        " WHERE tokens.rowid = n.place"
        " AND (tokens.is_anchor <> n.is_anchor OR tokens.is_control <> n.is_control)",
        {"run": run_id},
    )
