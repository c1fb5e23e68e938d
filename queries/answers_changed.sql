-- name: answers_changed
-- kind: table
-- summary: Answers that steering changed, beside the baseline's.
-- params:
--   sweep: {type: text, help: the sweep's id or name}
--   alpha: {type: number, default: null, help: only this strength}
-- returns:
--   vector: name of the vector
--   layer: decoder block
--   target: tokens that were steered
--   alpha: strength
--   split: split
--   sample_id: input
--   question: its question, where a run holds the input
--   before: the baseline's answer
--   after: the steered answer
--   effect: mended, broken or changed
--   margin_change: change of the margin
SELECT
    s.vector,
    s.layer,
    s.target,
    s.alpha,
    s.split,
    s.sample_id,
    q.question,
    coalesce(s.baseline_parsed, s.baseline_raw) AS before,
    coalesce(s.parsed, s.raw) AS after,
    CASE
        WHEN s.correct AND NOT s.baseline_correct THEN 'mended'
        WHEN s.baseline_correct AND NOT s.correct THEN 'broken'
        ELSE 'changed'
    END AS effect,
    s.margin_change
FROM answers_with_baseline s
LEFT JOIN (SELECT sample_id, min(question) AS question FROM samples GROUP BY sample_id) q ON q.sample_id = s.sample_id
WHERE $sweep IN (s.sweep_id, s.sweep)
    AND ($alpha IS NULL OR s.alpha = $alpha)
    AND coalesce(s.parsed, s.raw) IS DISTINCT FROM coalesce(s.baseline_parsed, s.baseline_raw)
ORDER BY s.vector_id, s.layer, s.target, s.alpha, s.split, s.sample_id
