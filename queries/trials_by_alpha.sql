-- name: trials_by_alpha
-- kind: table
-- summary: What each strength did, per vector, layer, target and split; alpha 0 without a vector is the baseline.
-- params:
--   sweep: {type: text, default: null, help: only the sweep of this id or name}
-- returns:
--   sweep: name of the sweep
--   split: split
--   vector: name of the vector, NULL for the baseline
--   layer: decoder block
--   target: tokens that were steered
--   alpha: strength
--   alpha_unit: raw, resid_norm or target_norm
--   n: answers
--   n_failed: of them, failed
--   accuracy: share of right answers, failed ones counted as wrong; NULL when the task has no right answer
--   unread: share of the answers given that were read as no option (they count as wrong); NULL when the task has no right answer
--   mean_margin: mean of log p(right) - max log p(wrong)
--   mean_score: mean of the task's own number
SELECT
    sweep,
    split,
    vector,
    layer,
    target,
    alpha,
    alpha_unit,
    count(*)::INTEGER AS n,
    (count(*) FILTER (status = 'failed'))::INTEGER AS n_failed,
    CASE WHEN count(correct) > 0 THEN count(*) FILTER (correct) / count(*) END AS accuracy,
    CASE
        WHEN count(correct) > 0
        THEN count(*) FILTER (status = 'ok' AND parsed IS NULL) / nullif(count(*) FILTER (status <> 'failed'), 0)
    END AS unread,
    avg(margin) AS mean_margin,
    avg(score) AS mean_score
FROM answers_with_cells
WHERE $sweep IS NULL OR $sweep IN (sweep_id, sweep)
GROUP BY sweep_id, sweep, split, cell_id, vector_id, vector, layer, target, alpha, alpha_unit
ORDER BY sweep, sweep_id, split, vector_id NULLS FIRST, layer, target, alpha, cell_id
