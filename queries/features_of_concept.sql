-- name: features_of_concept
-- kind: table
-- summary: Features of an SAE that fire more often on the anchors of a concept than on the controls of the same sentences.
-- params:
--   concept: {type: concept, help: concept whose sentences are taken}
--   sae: {type: sae, default: null, help: "SAE by name, id or prefix; needed where the run is encoded with several"}
--   run: {type: run, default: null, help: "run by name, id or prefix; needed where several runs are encoded"}
--   top: {type: integer, default: 20, minimum: 1, help: how many features}
-- returns:
--   feature: feature of the SAE
--   rate_anchor: share of the anchors on which it fires
--   rate_control: share of the controls on which it fires
--   difference: rate on anchors minus rate on controls
--   n_anchor: anchors on which it fires
--   n_control: controls on which it fires
--   mean_anchor: mean activation on anchors where it fires
WITH roles AS MATERIALIZED (
    SELECT t.row_idx, bool_or(t.is_anchor) AS is_anchor
    FROM tokens t
    JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
    WHERE t.run_id = $run
        AND s.run_id = $run
        AND s.concept = $concept
        AND (t.is_anchor OR t.is_control)
        AND t.position <> 0
        AND t.row_idx IS NOT NULL
    GROUP BY t.row_idx
), sizes AS (
    SELECT count(*) FILTER (is_anchor) AS n_anchors, count(*) FILTER (NOT is_anchor) AS n_controls FROM roles
), counted AS (
    SELECT
        f.feature,
        count(*) FILTER (r.is_anchor) AS n_anchor,
        count(*) FILTER (NOT r.is_anchor) AS n_control,
        avg(f.value) FILTER (r.is_anchor) AS mean_anchor
    FROM feature_acts f
    JOIN roles r ON r.row_idx = f.row_idx
    WHERE f.sae_id = $sae AND f.run_id = $run
    GROUP BY f.feature
)
SELECT
    feature,
    n_anchor / nullif(n_anchors, 0) AS rate_anchor,
    coalesce(n_control / nullif(n_controls, 0), 0) AS rate_control,
    rate_anchor - rate_control AS difference,
    n_anchor,
    n_control,
    mean_anchor
FROM counted
CROSS JOIN sizes
WHERE n_anchor > 0
ORDER BY difference DESC, feature
LIMIT $top
