-- name: feature_rates
-- kind: table
-- summary: How often an SAE's feature fires, by concept of the sample and role of the token.
-- params:
--   feature: {type: integer, minimum: 0, help: feature of the SAE}
--   sae: {type: sae, default: null, help: "SAE by name, id or prefix; needed where the run is encoded with several"}
--   run: {type: run, default: null, help: "run by name, id or prefix; needed where several runs are encoded"}
-- returns:
--   concept: concept of the samples; NULL for samples without one
--   role: "first (position 0), anchor, control, or else the kind: text, special, image, template"
--   n: tokens with a row
--   n_fires: tokens on which the feature fires
--   rate: share of the tokens on which it fires
--   mean_value: mean activation where it fires
WITH fires AS MATERIALIZED (
    SELECT row_idx, value FROM feature_acts WHERE sae_id = $sae AND run_id = $run AND feature = $feature
)
SELECT
    s.concept,
    CASE
        WHEN t.position = 0 THEN 'first'
        WHEN t.is_anchor THEN 'anchor'
        WHEN t.is_control THEN 'control'
        ELSE t.kind::VARCHAR
    END AS role,
    count(*) AS n,
    count(f.value) AS n_fires,
    count(f.value) / count(*) AS rate,
    avg(f.value) AS mean_value
FROM tokens t
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
LEFT JOIN fires f ON f.row_idx = t.row_idx
WHERE t.run_id = $run AND s.run_id = $run AND t.row_idx IS NOT NULL
GROUP BY ALL
ORDER BY rate DESC, concept, role
