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
    w.name AS sweep,
    t.split,
    v.name AS vector,
    c.layer,
    c.target,
    c.alpha,
    c.alpha_unit,
    t.n,
    t.n_failed,
    CASE WHEN g.n_judged > 0 THEN t.n_correct / t.n END AS accuracy,
    CASE WHEN g.n_judged > 0 THEN g.n_unread / nullif(t.n - t.n_failed, 0) END AS unread,
    t.mean_margin,
    t.mean_score
FROM trials t
JOIN sweeps w ON w.sweep_id = t.sweep_id
JOIN cells c ON c.sweep_id = t.sweep_id AND c.cell_id = t.cell_id
JOIN (SELECT sweep_id, cell_id, split, count(correct) AS n_judged,
    count(*) FILTER (status = 'ok' AND parsed IS NULL) AS n_unread FROM answers GROUP BY ALL) g
    ON g.sweep_id = t.sweep_id AND g.cell_id = t.cell_id AND g.split = t.split
LEFT JOIN (SELECT DISTINCT vector_id, name FROM vectors) v ON v.vector_id = c.vector_id
WHERE $sweep IS NULL OR $sweep IN (t.sweep_id, w.name)
ORDER BY sweep, t.sweep_id, t.split, c.vector_id NULLS FIRST, c.layer, c.target, c.alpha, t.cell_id
