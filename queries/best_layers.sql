-- name: best_layers
-- kind: table
-- summary: The layer of each vector that separates best by held-out AUC; ties go to the lower layer.
-- params:
--   concept: {type: text, default: null, help: only vectors of this concept}
-- returns:
--   name: name of the vector
--   vector_id: vector
--   method: how it was made
--   concept: concept
--   layer: best decoder block
--   auc: held-out AUC there
--   d_prime: held-out distance of the two sides there, in standard deviations
--   difference_cosine: mean cosine of the training differences with the direction there
--   difference_cosine_std: their standard deviation
--   norm: norm of the direction there
--   norm_ratio: norm of the direction over the median residual norm
SELECT
    name,
    vector_id,
    method,
    concept,
    layer,
    auc,
    d_prime,
    difference_cosine,
    difference_cosine_std,
    norm,
    norm / nullif(resid_norm, 0) AS norm_ratio
FROM vectors
WHERE auc IS NOT NULL AND control_kind IS NULL AND ($concept IS NULL OR concept = $concept)
QUALIFY row_number() OVER (PARTITION BY vector_id ORDER BY auc DESC, layer) = 1
ORDER BY concept, auc DESC, name, vector_id
