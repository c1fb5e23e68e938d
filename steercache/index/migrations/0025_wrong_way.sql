-- Answers beside the baseline's, and how many samples moved the wrong way; numbers of a fit that tell beforehand how well it steers.

ALTER TABLE vectors ADD COLUMN d_prime DOUBLE;
ALTER TABLE vectors ADD COLUMN difference_cosine DOUBLE;
ALTER TABLE vectors ADD COLUMN difference_cosine_std DOUBLE;
COMMENT ON COLUMN vectors.d_prime IS 'separability: held-out distance of the means of the two sides along the direction, in standard deviations; NULL where it was not measured';
COMMENT ON COLUMN vectors.difference_cosine IS 'mean cosine of the training differences with the direction fitted without them; NULL where it was not measured';
COMMENT ON COLUMN vectors.difference_cosine_std IS 'standard deviation of these cosines: the spread of the training differences; NULL where it was not measured';
DELETE FROM seen WHERE path = 'vectors'; -- the files of vectors are read again, at the next catching up
DELETE FROM sources WHERE path LIKE 'vectors/%';

CREATE VIEW answers_with_baseline AS
SELECT
    a.sweep_id,
    w.name AS sweep,
    a.split,
    a.sample_id,
    a.cell_id,
    c.vector_id,
    v.name AS vector,
    v.control_kind,
    c.layer,
    c.alpha,
    c.alpha_unit,
    c.unit_norm,
    coalesce(c.operation, 'add') AS operation,
    c.target,
    a.raw,
    a.parsed,
    a.correct,
    a.margin,
    a.status,
    d.cell_id AS baseline_cell_id,
    b.raw AS baseline_raw,
    b.parsed AS baseline_parsed,
    b.correct AS baseline_correct,
    b.margin AS baseline_margin,
    b.status AS baseline_status,
    CASE WHEN a.status = 'ok' AND b.status = 'ok' THEN b.correct AND NOT a.correct END AS wrong_way,
    CASE WHEN coalesce(a.margin_of = b.margin_of, true) THEN a.margin - b.margin END AS margin_change,
    CASE
        WHEN a.margin IS NULL OR b.margin IS NULL OR a.margin_of <> b.margin_of THEN NULL
        WHEN a.margin < b.margin THEN 1.0::DOUBLE
        WHEN a.margin = b.margin THEN 0.5::DOUBLE
        ELSE 0.0::DOUBLE
    END AS margin_wrong_way
FROM answers a
JOIN cells c ON c.sweep_id = a.sweep_id AND c.cell_id = a.cell_id AND c.vector_id IS NOT NULL
JOIN cells d
    ON d.vector_id IS NULL
    AND d.layer IS NULL
    AND d.sweep_id = c.sweep_id
    AND d.model_fingerprint = c.model_fingerprint
    AND d.preprocessing IS NOT DISTINCT FROM c.preprocessing
    AND d.prompt_id = c.prompt_id
    AND d.decoding IS NOT DISTINCT FROM c.decoding
JOIN answers b ON b.sweep_id = a.sweep_id AND b.cell_id = d.cell_id AND b.sample_id = a.sample_id AND b.split = a.split
LEFT JOIN sweeps w ON w.sweep_id = a.sweep_id
LEFT JOIN (SELECT DISTINCT vector_id, name, control_kind FROM vectors) v ON v.vector_id = c.vector_id;
COMMENT ON VIEW answers_with_baseline IS 'One row per steered answer, beside the answer of the unsteered model to the same sample in the same sweep.';
COMMENT ON COLUMN answers_with_baseline.sweep_id IS 'sweep';
COMMENT ON COLUMN answers_with_baseline.sweep IS 'name of the sweep';
COMMENT ON COLUMN answers_with_baseline.split IS 'split the sample was in';
COMMENT ON COLUMN answers_with_baseline.sample_id IS 'hash of the input';
COMMENT ON COLUMN answers_with_baseline.cell_id IS 'steered cell; join cells on (sweep_id, cell_id)';
COMMENT ON COLUMN answers_with_baseline.vector_id IS 'vector of the cell';
COMMENT ON COLUMN answers_with_baseline.vector IS 'name of the vector; NULL for a vector that is not in the cache';
COMMENT ON COLUMN answers_with_baseline.control_kind IS 'kind of a control direction; NULL for other vectors';
COMMENT ON COLUMN answers_with_baseline.layer IS 'zero-based decoder block';
COMMENT ON COLUMN answers_with_baseline.alpha IS 'strength';
COMMENT ON COLUMN answers_with_baseline.alpha_unit IS 'raw, resid_norm, target_norm or kl';
COMMENT ON COLUMN answers_with_baseline.unit_norm IS 'median row norm that alpha counts in; in the unit kl the raw strength for each nat; NULL for raw strengths';
COMMENT ON COLUMN answers_with_baseline.operation IS 'what was done with the vector: add, project_out, clamp:value=2.0, ...';
COMMENT ON COLUMN answers_with_baseline.target IS 'tokens that were steered';
COMMENT ON COLUMN answers_with_baseline.raw IS 'what the steered model wrote';
COMMENT ON COLUMN answers_with_baseline.parsed IS 'the steered answer as read from the text; NULL where none could be read';
COMMENT ON COLUMN answers_with_baseline.correct IS 'whether the steered answer is right; NULL when the task has no right answer or it failed';
COMMENT ON COLUMN answers_with_baseline.margin IS 'steered: log p(right) - max log p(wrong)';
COMMENT ON COLUMN answers_with_baseline.status IS 'ok or failed, steered';
COMMENT ON COLUMN answers_with_baseline.baseline_cell_id IS 'cell without a vector, of the same model, prompt and decoding';
COMMENT ON COLUMN answers_with_baseline.baseline_raw IS 'what the unsteered model wrote';
COMMENT ON COLUMN answers_with_baseline.baseline_parsed IS 'the unsteered answer as read from the text; NULL where none could be read';
COMMENT ON COLUMN answers_with_baseline.baseline_correct IS 'whether the unsteered answer is right';
COMMENT ON COLUMN answers_with_baseline.baseline_margin IS 'unsteered: log p(right) - max log p(wrong)';
COMMENT ON COLUMN answers_with_baseline.baseline_status IS 'ok or failed, unsteered';
COMMENT ON COLUMN answers_with_baseline.wrong_way IS 'whether the sample moved the wrong way: right unsteered and wrong steered; NULL where either failed or has no right answer';
COMMENT ON COLUMN answers_with_baseline.margin_change IS 'steered minus unsteered margin; NULL where either has none, or they are of other options';
COMMENT ON COLUMN answers_with_baseline.margin_wrong_way IS 'whether the margin fell: 1, or 0.5 where it stayed, or 0; NULL where margin_change is';

CREATE VIEW trials_with_baseline AS
SELECT
    t.*,
    v.d_prime,
    v.difference_cosine,
    v.difference_cosine_std
FROM (
    SELECT
        sweep_id,
        sweep,
        split,
        cell_id,
        vector_id,
        vector,
        control_kind,
        layer,
        alpha,
        alpha_unit,
        operation,
        target,
        count(wrong_way)::INTEGER AS n,
        avg(baseline_correct::INTEGER) FILTER (wrong_way IS NOT NULL) AS before,
        avg(correct::INTEGER) FILTER (wrong_way IS NOT NULL) AS after,
        avg(wrong_way::INTEGER) AS wrong_way,
        count(margin_wrong_way)::INTEGER AS n_margins,
        avg(margin_wrong_way) AS margin_wrong_way,
        avg(margin_change) AS mean_margin_change,
        stddev_pop(margin_change) AS std_margin_change
    FROM answers_with_baseline
    GROUP BY ALL
) t
LEFT JOIN vectors v ON v.vector_id = t.vector_id AND v.layer = t.layer;
COMMENT ON VIEW trials_with_baseline IS 'One row per sweep, steered cell and split: right answers before and after, and the share of samples moved the wrong way.';
COMMENT ON COLUMN trials_with_baseline.sweep_id IS 'sweep';
COMMENT ON COLUMN trials_with_baseline.sweep IS 'name of the sweep';
COMMENT ON COLUMN trials_with_baseline.split IS 'split';
COMMENT ON COLUMN trials_with_baseline.cell_id IS 'cell; join cells on (sweep_id, cell_id)';
COMMENT ON COLUMN trials_with_baseline.vector_id IS 'vector of the cell';
COMMENT ON COLUMN trials_with_baseline.vector IS 'name of the vector; NULL for a vector that is not in the cache';
COMMENT ON COLUMN trials_with_baseline.control_kind IS 'kind of a control direction; NULL for other vectors';
COMMENT ON COLUMN trials_with_baseline.layer IS 'zero-based decoder block';
COMMENT ON COLUMN trials_with_baseline.alpha IS 'strength';
COMMENT ON COLUMN trials_with_baseline.alpha_unit IS 'raw, resid_norm, target_norm or kl';
COMMENT ON COLUMN trials_with_baseline.operation IS 'what was done with the vector: add, project_out, clamp:value=2.0, ...';
COMMENT ON COLUMN trials_with_baseline.target IS 'tokens that were steered';
COMMENT ON COLUMN trials_with_baseline.n IS 'samples that were answered with and without steering';
COMMENT ON COLUMN trials_with_baseline.before IS 'share of them answered right unsteered';
COMMENT ON COLUMN trials_with_baseline.after IS 'share of them answered right steered';
COMMENT ON COLUMN trials_with_baseline.wrong_way IS 'share of them moved the wrong way: right unsteered and wrong steered';
COMMENT ON COLUMN trials_with_baseline.n_margins IS 'samples with a margin with and without steering';
COMMENT ON COLUMN trials_with_baseline.margin_wrong_way IS 'share of them whose margin fell; a margin that stayed counts half (after arXiv 2407.12404)';
COMMENT ON COLUMN trials_with_baseline.mean_margin_change IS 'mean change of the margin';
COMMENT ON COLUMN trials_with_baseline.std_margin_change IS 'standard deviation of the change over samples';
COMMENT ON COLUMN trials_with_baseline.d_prime IS 'of the vector at the layer: separability of its training rows, as in vectors';
COMMENT ON COLUMN trials_with_baseline.difference_cosine IS 'of the vector at the layer: mean cosine of its training differences, as in vectors';
COMMENT ON COLUMN trials_with_baseline.difference_cosine_std IS 'of the vector at the layer: spread of these cosines, as in vectors';
COMMENT ON VIEW trials IS 'Answers counted per sweep, cell and split; trials_with_baseline has what steering changed.';
