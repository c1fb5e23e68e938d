-- name: anchor_tokens
-- kind: table
-- summary: Which tokens carry a concept, how often, and how often the same tokens are controls.
-- params:
--   concept: {type: concept, help: concept}
--   run: {type: run, default: newest_text, help: "run by name, id or prefix; the newest complete text run that has the concept"}
-- returns:
--   token_id: id in the vocabulary
--   piece: the token as the tokenizer writes it
--   n_anchor: times it is an anchor
--   n_sentences: sentences in which it is one
--   n_control: times it is a control in sentences of the same concept
SELECT
    t.token_id,
    min(t.piece) AS piece,
    count(*) FILTER (t.is_anchor) AS n_anchor,
    count(DISTINCT t.sample_idx) FILTER (t.is_anchor) AS n_sentences,
    count(*) FILTER (t.is_control) AS n_control
FROM tokens t
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
WHERE t.run_id = $run AND s.run_id = $run AND s.concept = $concept
GROUP BY t.token_id
HAVING n_anchor > 0
ORDER BY n_anchor DESC, piece, t.token_id
