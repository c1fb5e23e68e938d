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
    w.name AS sweep,
    v.name AS vector,
    v.control_kind,
    c.layer,
    c.target,
    c.alpha,
    array_to_string((c.decoding->'$.words')::VARCHAR[], ', ') AS words,
    t.n,
    t.mean_score AS probability
FROM trials t
JOIN sweeps w ON w.sweep_id = t.sweep_id
JOIN cells c ON c.sweep_id = t.sweep_id AND c.cell_id = t.cell_id
LEFT JOIN (SELECT DISTINCT vector_id, name, control_kind FROM vectors) v ON v.vector_id = c.vector_id
WHERE c.decoding->>'$.score' = 'next_token_mass'
    AND ($sweep IS NULL OR $sweep IN (t.sweep_id, w.name))
    AND ($controls OR v.control_kind IS NULL)
ORDER BY sweep, t.sweep_id, words, c.alpha, v.control_kind NULLS FIRST, v.name
