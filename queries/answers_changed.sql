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
    coalesce(b.parsed, b.raw) AS before,
    coalesce(s.parsed, s.raw) AS after,
    CASE
        WHEN s.correct AND NOT b.correct THEN 'mended'
        WHEN b.correct AND NOT s.correct THEN 'broken'
        ELSE 'changed'
    END AS effect,
    s.margin - b.margin AS margin_change
FROM answers_with_cells s
JOIN answers_with_cells b
    ON b.vector_id IS NULL
    AND b.sweep_id = s.sweep_id
    AND b.sample_id = s.sample_id
    AND b.split = s.split
    AND b.model_fingerprint = s.model_fingerprint
    AND b.preprocessing IS NOT DISTINCT FROM s.preprocessing
    AND b.prompt_id = s.prompt_id
    AND b.decoding IS NOT DISTINCT FROM s.decoding
LEFT JOIN (SELECT sample_id, min(question) AS question FROM samples GROUP BY sample_id) q ON q.sample_id = s.sample_id
WHERE s.vector_id IS NOT NULL
    AND $sweep IN (s.sweep_id, s.sweep)
    AND ($alpha IS NULL OR s.alpha = $alpha)
    AND coalesce(s.parsed, s.raw) IS DISTINCT FROM coalesce(b.parsed, b.raw)
ORDER BY s.vector_id, s.layer, s.target, s.alpha, s.split, s.sample_id
