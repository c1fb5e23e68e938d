-- name: check_non_finite_rows
-- kind: check
-- summary: Shards that hold rows with infinities or NaN, such as float16 gives beyond 65504; they have no mean, and no probe.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run_id: run
--   name: name of the run
--   dtype: dtype of the stored values
--   shard_idx: shard
--   n_non_finite: its rows that are not finite, summed over sites and layers
SELECT h.run_id, r.name, r.dtype, h.shard_idx, h.n_non_finite
FROM shards h
JOIN runs r ON r.run_id = h.run_id
WHERE h.n_non_finite > 0 AND ($run IS NULL OR h.run_id = $run)
ORDER BY h.run_id, h.shard_idx
