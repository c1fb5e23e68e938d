-- name: words_by_alpha
-- kind: table
-- summary: Mean probability of every word, or group of words, that a sweep scored, against alpha (steercache report colours).
-- params:
--   sweep: {type: text, default: null, help: only the sweep of this id or name}
--   controls: {type: boolean, default: true, help: random directions too}
-- returns:
--   sweep: name of the sweep
--   vector: name of the vector, NULL for the model itself
--   control_kind: how a control was made; NULL for a real vector
--   layer: decoder block
--   target: tokens that were steered
--   alpha: strength
--   words: what was scored
--   n: inputs
--   probability: mean probability that the next token is one of the words
SELECT
    sweep,
    vector,
    control_kind,
    layer,
    target,
    alpha,
    array_to_string((decoding->'$.words')::VARCHAR[], ', ') AS words,
    count(*)::INTEGER AS n,
    avg(score) AS probability
FROM answers_with_cells
WHERE decoding->>'$.score' = 'next_token_mass'
    AND ($sweep IS NULL OR $sweep IN (sweep_id, sweep))
    AND ($controls OR control_kind IS NULL)
GROUP BY sweep_id, sweep, cell_id, split, vector, control_kind, layer, target, alpha, words
ORDER BY sweep, sweep_id, words, alpha, control_kind NULLS FIRST, vector
