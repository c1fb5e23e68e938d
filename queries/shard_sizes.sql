-- name: shard_sizes
-- kind: table
-- summary: Rows and bytes of each shard.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run: name of the run
--   run_id: run
--   shard_idx: shard
--   n_samples: whole samples in it
--   n_rows: rows in use
--   mib: size of its files
--   bytes_per_row: all sites, layers and tables
--   committed_at: when it was committed, UTC
SELECT
    r.name AS run,
    h.run_id,
    h.shard_idx,
    h.n_samples,
    h.n_rows,
    round(h.n_bytes / 1024 ** 2, 3) AS mib,
    round(h.n_bytes / nullif(h.n_rows, 0), 1) AS bytes_per_row,
    h.committed_at
FROM shards h
JOIN runs r ON r.run_id = h.run_id
WHERE $run IS NULL OR h.run_id = $run
ORDER BY run, h.run_id, h.shard_idx
