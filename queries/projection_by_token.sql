-- name: projection_by_token
-- kind: table
-- summary: Which tokens lie along a vector at a layer, by mean projection of their activations on its direction.
-- params:
--   vector: {type: vector, help: "vector by name, id or prefix"}
--   layer: {type: integer, minimum: 0, help: decoder block}
--   run: {type: run, default: null, help: the run that the vector was fitted on}
--   concept: {type: concept, default: null, help: only sentences of this concept}
--   rows: {type: integer, default: 50000, minimum: 1, help: look at the first so many rows}
-- returns:
--   token_id: id in the vocabulary
--   piece: the token as the tokenizer writes it
--   n: rows looked at
--   projection: mean projection on the unit direction
--   cosine: mean cosine with it
--   n_anchor: how many of the rows are anchors
WITH direction AS (
    SELECT site, run_id, vector(vector_id, layer) AS v FROM vectors WHERE vector_id = $vector AND layer = $layer
), picked AS MATERIALIZED (
    SELECT t.token_id, t.piece, t.is_anchor, t.run_id, t.row_idx
    FROM tokens t
    JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
    WHERE t.run_id = coalesce($run, (SELECT run_id FROM direction))
        AND t.row_idx IS NOT NULL
        AND t.position <> 0
        AND ($concept IS NULL OR s.concept = $concept)
    ORDER BY t.row_idx
    LIMIT $rows
), gathered AS MATERIALIZED (
    SELECT p.token_id, p.piece, p.is_anchor, d.v, activation(p.run_id, d.site, $layer, p.row_idx) AS a
    FROM picked p
    CROSS JOIN direction d
)
SELECT
    token_id,
    min(piece) AS piece,
    count(*) AS n,
    avg(list_dot_product(a, v) / sqrt(list_dot_product(v, v))) AS projection,
    avg(list_cosine_similarity(a, v)) AS cosine,
    count(*) FILTER (is_anchor) AS n_anchor
FROM gathered
GROUP BY token_id
ORDER BY projection DESC, token_id
