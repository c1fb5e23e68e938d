-- name: moved_wrong_way
-- kind: table
-- summary: Share of samples that a cell moved the wrong way, per cell and split, by answers and margins (arXiv 2407.12404).
-- params:
--   sweep: {type: text, default: null, help: only the sweep of this id or name}
-- returns:
--   sweep: name of the sweep
--   split: split
--   vector: name of the vector
--   layer: decoder block
--   target: tokens that were steered
--   alpha: strength
--   n_answers: samples answered with and without steering
--   answers_wrong_way: share of them that were right unsteered and are wrong steered
--   n: samples with a margin with and without steering
--   wrong_way: share of them whose margin fell; a margin that stayed counts half
--   mean_change: mean change of the margin
--   std_change: standard deviation of the change over samples
--   d_prime: held-out distance of the two sides of the vector's training rows, in standard deviations
--   difference_cosine: mean cosine of the vector's training differences with the direction
SELECT
    sweep,
    split,
    vector,
    layer,
    target,
    alpha,
    n AS n_answers,
    wrong_way AS answers_wrong_way,
    n_margins AS n,
    margin_wrong_way AS wrong_way,
    mean_margin_change AS mean_change,
    std_margin_change AS std_change,
    d_prime,
    difference_cosine
FROM trials_with_baseline
WHERE (n > 0 OR n_margins > 0) AND ($sweep IS NULL OR $sweep IN (sweep_id, sweep))
ORDER BY sweep, sweep_id, split, vector_id, layer, target, alpha, cell_id
