-- name: check_pairs
-- kind: check
-- summary: Contrastive pairs that do not have one positive and one negative prompt.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run_id: run
--   dataset: data set
--   pair_id: pair
--   n_positive: prompts with polarity +1
--   n_negative: prompts with polarity -1
SELECT
    run_id,
    dataset,
    pair_id,
    count(*) FILTER (polarity = 1) AS n_positive,
    count(*) FILTER (polarity = -1) AS n_negative
FROM samples
WHERE pair_id IS NOT NULL AND ($run IS NULL OR run_id = $run)
GROUP BY run_id, dataset, pair_id
HAVING n_positive <> 1 OR n_negative <> 1
ORDER BY run_id, dataset, pair_id
