-- name: vectors_overview
-- kind: table
-- summary: Every vector with its method, concept, layers and run, newest first; random and other control directions on request.
-- params:
--   controls: {type: boolean, default: false, help: also list control and null directions}
-- returns:
--   name: name
--   vector_id: id
--   method: how it was made
--   concept: concept, where it has one
--   site: where its rows were taken
--   n_layers: layers that it has a direction for
--   hidden_size: width of a direction
--   best_layer: layer with the highest held-out AUC, where that was measured
--   best_auc: that AUC
--   run: name of the run it was fitted on
--   run_id: id of that run
--   created_at: when it was saved, UTC
SELECT
    v.name,
    v.vector_id,
    v.method,
    v.concept,
    v.site,
    count(*) AS n_layers,
    max(v.hidden_size) AS hidden_size,
    arg_max(v.layer, v.auc) AS best_layer,
    max(v.auc) AS best_auc,
    any_value(r.name) AS run,
    v.run_id,
    max(v.created_at) AS created_at
FROM vectors v
LEFT JOIN runs r ON r.run_id = v.run_id
WHERE $controls OR v.control_kind IS NULL
GROUP BY v.name, v.vector_id, v.method, v.concept, v.site, v.run_id
ORDER BY created_at DESC, v.vector_id
