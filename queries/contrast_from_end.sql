-- name: contrast_from_end
-- kind: selection
-- summary: One token of contrastive prompts, counted from the end, positive (label 1) and negative (label 0), by pair.
-- params:
--   concept: {type: text, default: null, help: only pairs of this concept}
--   run: {type: run, default: newest_text, help: "run by name, id or prefix; the newest complete text run that has the concept"}
--   split: {type: text, default: null, help: only pairs of this split}
--   from_end: {type: integer, default: 0, minimum: 0, help: "which token, counted from the end; 0 is the last"}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
--   label: 1 for the positive prompt of a pair, 0 for the negative
--   pair: the pair's own name
SELECT t.run_id, t.row_idx, (s.polarity > 0)::TINYINT AS label, s.dataset || ':' || s.pair_id AS pair
FROM samples s
JOIN tokens t ON t.run_id = s.run_id AND t.sample_idx = s.sample_idx AND t.position = s.n_tokens - 1 - $from_end
WHERE s.run_id = $run
    AND t.run_id = $run
    AND s.pair_id IS NOT NULL
    AND s.polarity IN (1, -1)
    AND ($concept IS NULL OR s.concept = $concept)
    AND ($split IS NULL OR s.split = $split)
    AND t.row_idx IS NOT NULL
