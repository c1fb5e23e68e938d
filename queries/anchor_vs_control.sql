-- name: anchor_vs_control
-- kind: selection
-- summary: Anchor tokens of a concept (label 1) against the control tokens of the same sentences (label 0).
-- params:
--   concept: {type: text, help: concept whose sentences are taken}
--   run: {type: run, default: newest_text, help: "run by name, id or prefix; the newest complete text run that has the concept"}
--   split: {type: text, default: null, help: only sentences of this split}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
--   label: 1 for anchors, 0 for controls
SELECT t.run_id, t.row_idx, t.is_anchor::TINYINT AS label
FROM tokens t
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
WHERE t.run_id = $run
    AND s.run_id = $run
    AND s.concept = $concept
    AND ($split IS NULL OR s.split = $split)
    AND (t.is_anchor OR t.is_control)
    AND t.row_idx IS NOT NULL
