-- name: token_frequency
-- kind: table
-- summary: The most frequent tokens of a run.
-- params:
--   run: {type: run, default: newest, help: "run by name, id or prefix; the newest complete run"}
--   top: {type: integer, default: 50, minimum: 1, help: how many}
-- returns:
--   token_id: id in the vocabulary
--   piece: the token as the tokenizer writes it
--   n: times it occurs
--   share: of all tokens of the run
--   n_anchor: times it is an anchor
SELECT
    token_id,
    min(piece) AS piece,
    count(*) AS n,
    count(*) / sum(count(*)) OVER () AS share,
    count(*) FILTER (is_anchor) AS n_anchor
FROM tokens
WHERE run_id = $run AND token_id >= 0
GROUP BY token_id
ORDER BY n DESC, token_id
LIMIT $top
