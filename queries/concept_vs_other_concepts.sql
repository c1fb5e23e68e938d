-- name: concept_vs_other_concepts
-- kind: selection
-- summary: Anchor tokens of a concept (label 1) against the anchor tokens of all other concepts (label 0).
-- params:
--   concept: {type: text, help: concept with label 1}
--   run: {type: run, default: newest_text, help: "run by name, id or prefix; the newest complete text run that has the concept"}
--   split: {type: text, default: null, help: only sentences of this split}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
--   label: 1 for the concept, 0 for the others
SELECT t.run_id, t.row_idx, (s.concept = $concept)::TINYINT AS label
FROM tokens t
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
WHERE t.run_id = $run
    AND s.run_id = $run
    AND t.is_anchor
    AND s.concept IS NOT NULL
    AND ($split IS NULL OR s.split = $split)
    AND t.row_idx IS NOT NULL
