-- name: check_rows_without_tokens
-- kind: check
-- summary: Gaps in the rows of a shard, that is rows which no token claims.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run_id: run
--   shard_idx: shard
--   first_row: first unclaimed row
--   n_rows: how many follow each other
SELECT run_id, shard_idx, row_idx + 1 AS first_row, following - row_idx - 1 AS n_rows
FROM (
    SELECT run_id, shard_idx, row_idx, lead(row_idx) OVER (PARTITION BY run_id, shard_idx ORDER BY row_idx) AS following
    FROM tokens
    WHERE row_idx IS NOT NULL AND ($run IS NULL OR run_id = $run)
)
WHERE following > row_idx + 1
ORDER BY run_id, shard_idx, first_row
