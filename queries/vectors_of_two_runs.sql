-- name: vectors_of_two_runs
-- kind: table
-- summary: Vectors of one concept and method fitted on two runs, such as an MLLM's own and its backbone's; cosine by layer.
-- params:
--   run: {type: run, help: "the first run (the backbone's) by name, id or prefix"}
--   other: {type: run, help: "the second one (the MLLM's)"}
--   concept: {type: text, default: null, help: only vectors of this concept}
-- returns:
--   concept: concept
--   method: how both were made
--   layer: decoder block
--   cosine: cosine of the two directions
--   norm: norm of the first run's
--   other_norm: norm of the second run's
--   vector: name of the first run's vector
--   other_vector: name of the second run's vector
--   vector_id: the first run's
--   other_vector_id: the second run's
WITH newest AS (
    SELECT * FROM vectors
    WHERE run_id IN ($run, $other) AND control_kind IS NULL AND ($concept IS NULL OR concept = $concept)
    QUALIFY row_number() OVER (
        PARTITION BY run_id, concept, method, query_name, layer ORDER BY created_at DESC, vector_id
    ) = 1
)
SELECT
    a.concept,
    a.method,
    a.layer,
    list_cosine_similarity(vector(a.vector_id, a.layer), vector(b.vector_id, b.layer)) AS cosine,
    a.norm,
    b.norm AS other_norm,
    a.name AS vector,
    b.name AS other_vector,
    a.vector_id,
    b.vector_id AS other_vector_id
FROM newest a
JOIN newest b
    ON b.run_id = $other
    AND b.concept IS NOT DISTINCT FROM a.concept
    AND b.method = a.method
    AND b.query_name IS NOT DISTINCT FROM a.query_name
    AND b.site = a.site
    AND coalesce(b.hidden_size, a.hidden_size, 0) = coalesce(a.hidden_size, b.hidden_size, 0)
    AND b.layer = a.layer
WHERE a.run_id = $run
ORDER BY a.concept, a.method, a.layer
