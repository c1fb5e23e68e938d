-- name: vector_norms
-- kind: table
-- summary: Norms and scores of vectors, layer by layer.
-- params:
--   vector: {type: vector, default: null, help: only this vector}
--   concept: {type: text, default: null, help: only vectors of this concept}
-- returns:
--   name: name of the vector
--   vector_id: vector
--   method: how it was made
--   concept: concept
--   layer: decoder block
--   norm: norm of the direction
--   resid_norm: median norm of the residual rows
--   norm_ratio: the one divided by the other
--   auc: held-out AUC of projections
--   d_prime: held-out distance of the two sides, in standard deviations
--   difference_cosine: mean cosine of the training differences with the direction
--   difference_cosine_std: their standard deviation
SELECT
    name,
    vector_id,
    method,
    concept,
    layer,
    norm,
    resid_norm,
    norm / nullif(resid_norm, 0) AS norm_ratio,
    auc,
    d_prime,
    difference_cosine,
    difference_cosine_std
FROM vectors
WHERE ($vector IS NULL OR vector_id = $vector) AND ($concept IS NULL OR concept = $concept)
ORDER BY name, vector_id, layer
