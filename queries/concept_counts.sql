-- name: concept_counts
-- kind: table
-- summary: Sentences, anchor tokens and control tokens of each concept, per run, data set and split.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run: name of the run
--   run_id: run
--   dataset: data set
--   concept: concept, NULL for samples without one
--   split: split
--   n_samples: samples
--   n_anchors: anchor tokens
--   n_controls: control tokens
--   n_kept: of both, those with a row
WITH counted AS (
    SELECT
        run_id,
        sample_idx,
        count(*) FILTER (is_anchor) AS n_anchors,
        count(*) FILTER (is_control) AS n_controls,
        count(row_idx) FILTER (is_anchor OR is_control) AS n_kept
    FROM tokens
    WHERE is_anchor OR is_control
    GROUP BY run_id, sample_idx
)
SELECT
    r.name AS run,
    s.run_id,
    s.dataset,
    s.concept,
    s.split,
    count(*) AS n_samples,
    coalesce(sum(c.n_anchors), 0)::BIGINT AS n_anchors,
    coalesce(sum(c.n_controls), 0)::BIGINT AS n_controls,
    coalesce(sum(c.n_kept), 0)::BIGINT AS n_kept
FROM samples s
JOIN runs r ON r.run_id = s.run_id
LEFT JOIN counted c ON c.run_id = s.run_id AND c.sample_idx = s.sample_idx
WHERE $run IS NULL OR s.run_id = $run
GROUP BY ALL
ORDER BY run, s.run_id, s.dataset, s.concept, s.split
