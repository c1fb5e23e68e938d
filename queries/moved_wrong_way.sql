-- name: moved_wrong_way
-- kind: table
-- summary: Share of samples whose answer margin a cell moved down, per cell and split (after arXiv 2407.12404).
-- params:
--   sweep: {type: text, default: null, help: only the sweep of this id or name}
-- returns:
--   sweep: name of the sweep
--   split: split
--   vector: name of the vector
--   layer: decoder block
--   target: tokens that were steered
--   alpha: strength
--   n: samples with a margin with and without steering
--   wrong_way: share of them whose margin fell; a margin that stayed counts half
--   mean_change: mean change of the margin
--   std_change: standard deviation of the change over samples
SELECT
    s.sweep,
    s.split,
    s.vector,
    s.layer,
    s.target,
    s.alpha,
    count(*)::INTEGER AS n,
    avg(CASE WHEN s.margin < b.margin THEN 1.0 WHEN s.margin = b.margin THEN 0.5 ELSE 0.0 END) AS wrong_way,
    avg(s.margin - b.margin) AS mean_change,
    stddev_pop(s.margin - b.margin) AS std_change
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
WHERE s.vector_id IS NOT NULL
    AND s.margin IS NOT NULL
    AND b.margin IS NOT NULL
    AND ($sweep IS NULL OR $sweep IN (s.sweep_id, s.sweep))
GROUP BY s.sweep_id, s.sweep, s.split, s.cell_id, s.vector_id, s.vector, s.layer, s.target, s.alpha
ORDER BY s.sweep, s.sweep_id, s.split, s.vector_id, s.layer, s.target, s.alpha, s.cell_id
