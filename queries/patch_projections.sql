-- name: patch_projections
-- kind: table
-- summary: How far every image patch of a sample lies along a vector at a layer.
-- params:
--   sample: {type: integer, minimum: 0, help: sample of the run}
--   vector: {type: vector, help: "vector by name, id or prefix"}
--   layer: {type: integer, minimum: 0, help: decoder block}
--   run: {type: run, default: newest_multimodal, help: "run by name, id or prefix; the newest complete multimodal run"}
-- returns:
--   tile: tile of the picture
--   patch_row: row of the patch
--   patch_col: column of the patch
--   projection: projection of the patch's activation on the unit direction
--   cosine: cosine with it
--   norm: norm of the activation
--   row_idx: row of the arrays
WITH direction AS (
    SELECT site, vector(vector_id, layer) AS v FROM vectors WHERE vector_id = $vector AND layer = $layer
), gathered AS MATERIALIZED (
    SELECT t.tile, t.patch_row, t.patch_col, t.row_idx, d.v, activation(t.run_id, d.site, $layer, t.row_idx) AS a
    FROM tokens t
    CROSS JOIN direction d
    WHERE t.run_id = $run AND t.sample_idx = $sample AND t.kind = 'image' AND t.patch_row >= 0 AND t.row_idx IS NOT NULL
)
SELECT
    tile,
    patch_row,
    patch_col,
    list_dot_product(a, v) / sqrt(list_dot_product(v, v)) AS projection,
    list_cosine_similarity(a, v) AS cosine,
    sqrt(list_dot_product(a, a)) AS norm,
    row_idx
FROM gathered
ORDER BY tile, patch_row, patch_col
