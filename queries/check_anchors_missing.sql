-- name: check_anchors_missing
-- kind: check
-- summary: Anchor spans that no token of their sentence touches.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run_id: run
--   dataset: data set
--   ordinal: sample within its data set
--   sample_idx: sample within the run
--   anchor_start: first character of the span
--   anchor_end: one past its last
--   anchor: its characters
WITH spans AS (
    SELECT run_id, dataset, ordinal, sample_idx, text, unnest(anchors) AS span
    FROM samples
    WHERE len(anchors) > 0 AND ($run IS NULL OR run_id = $run)
)
SELECT
    p.run_id,
    p.dataset,
    p.ordinal,
    p.sample_idx,
    p.span."start" AS anchor_start,
    p.span."end" AS anchor_end,
    substring(p.text, p.span."start" + 1, p.span."end" - p.span."start") AS anchor
FROM spans p
WHERE NOT EXISTS (
    SELECT 1
    FROM tokens t
    WHERE t.run_id = p.run_id
        AND t.sample_idx = p.sample_idx
        AND t.char_start >= 0
        AND t.char_start < p.span."end"
        AND t.char_end > p.span."start"
)
ORDER BY p.run_id, p.sample_idx, anchor_start
