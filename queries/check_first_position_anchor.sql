-- name: check_first_position_anchor
-- kind: check
-- summary: Anchors at position 0, the attention sink, whose massive activations would swamp every mean.
-- params:
--   run: {type: run, default: null, help: only this run}
-- returns:
--   run_id: run
--   dataset: data set
--   ordinal: sample within its data set
--   sample_idx: sample within the run
--   piece: the token
--   text: the sentence
SELECT t.run_id, s.dataset, s.ordinal, t.sample_idx, t.piece, s.text
FROM tokens t
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
WHERE t.position = 0 AND t.is_anchor AND ($run IS NULL OR t.run_id = $run)
ORDER BY t.run_id, t.sample_idx
