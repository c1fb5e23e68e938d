-- name: check_duplicate_rows
-- kind: check
-- summary: Rows that more than one token claims, and not only as the same first token of several questions about a picture.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
--   n_tokens: tokens that claim it
SELECT t.run_id, t.row_idx, count(*) AS n_tokens
FROM tokens t
JOIN runs r ON r.run_id = t.run_id
WHERE t.row_idx IS NOT NULL AND ($run IS NULL OR t.run_id = $run)
GROUP BY t.run_id, t.row_idx, coalesce(r.manifest ->> '$.share_prefix' = 'true', false)
HAVING count(*) > 1
    AND NOT (
        coalesce(r.manifest ->> '$.share_prefix' = 'true', false)
        AND min(t.sample_idx) < max(t.sample_idx)
        AND min(t.position) = max(t.position)
        AND min(t.token_id) = max(t.token_id)
    )
ORDER BY t.run_id, t.row_idx
