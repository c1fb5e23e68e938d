-- name: layer_cosine
-- kind: table
-- summary: Cosine between two vectors, layer by layer.
-- params:
--   vector: {type: vector, help: "vector by name, id or prefix"}
--   other: {type: vector, help: "another one, over the same layers"}
-- returns:
--   layer: decoder block
--   cosine: cosine of the two directions
--   norm: norm of the first
--   other_norm: norm of the second
SELECT
    a.layer,
    list_cosine_similarity(vector(a.vector_id, a.layer), vector(b.vector_id, b.layer)) AS cosine,
    a.norm,
    b.norm AS other_norm
FROM vectors a
JOIN vectors b ON b.layer = a.layer
WHERE a.vector_id = $vector AND b.vector_id = $other
ORDER BY a.layer
