-- name: check_shards_rows
-- kind: check
-- summary: Shards whose tokens or samples do not add up to what their record says.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run_id: run
--   shard_idx: shard
--   n_rows: rows that the record says
--   n_rows_found: rows that tokens have
--   n_samples: samples that the record says
--   n_samples_found: samples found
SELECT
    h.run_id,
    h.shard_idx,
    h.n_rows,
    coalesce(t.n, 0) AS n_rows_found,
    h.n_samples,
    coalesce(s.n, 0) AS n_samples_found
FROM shards h
LEFT JOIN (
    SELECT
        t.run_id,
        t.shard_idx,
        CASE WHEN r.shares THEN count(DISTINCT t.row_idx) FILTER (r.shares) ELSE count(t.row_idx) END AS n
    FROM tokens t
    JOIN (SELECT run_id, coalesce(manifest ->> '$.share_prefix' = 'true', false) AS shares FROM runs) r
        ON r.run_id = t.run_id
    GROUP BY t.run_id, t.shard_idx, r.shares
) t
    ON t.run_id = h.run_id AND t.shard_idx = h.shard_idx
LEFT JOIN (SELECT run_id, shard_idx, count(*) AS n FROM samples GROUP BY ALL) s
    ON s.run_id = h.run_id AND s.shard_idx = h.shard_idx
WHERE ($run IS NULL OR h.run_id = $run) AND (n_rows_found <> h.n_rows OR n_samples_found <> h.n_samples)
ORDER BY h.run_id, h.shard_idx
