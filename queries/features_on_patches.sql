-- name: features_on_patches
-- kind: table
-- summary: Features of an SAE that fire on the image patches of a sample, the strongest of each patch.
-- params:
--   sample: {type: integer, minimum: 0, help: sample of the run}
--   sae: {type: sae, default: null, help: "SAE by name, id or prefix; needed where the run is encoded with several"}
--   run: {type: run, default: null, help: "run by name, id or prefix; needed where several runs are encoded"}
--   feature: {type: integer, default: null, minimum: 0, help: only this feature}
--   top: {type: integer, default: 5, minimum: 1, help: how many features of each patch}
-- returns:
--   tile: tile of the picture
--   patch_row: row of the patch
--   patch_col: column of the patch
--   feature: feature of the SAE
--   value: its activation
--   rank: place among the features of the patch, from 1
--   row_idx: row of the arrays
WITH patches AS MATERIALIZED (
    SELECT tile, patch_row, patch_col, row_idx
    FROM tokens
    WHERE run_id = $run AND sample_idx = $sample AND kind = 'image' AND patch_row >= 0 AND row_idx IS NOT NULL
), ranked AS (
    SELECT
        p.tile,
        p.patch_row,
        p.patch_col,
        f.feature,
        f.value,
        row_number() OVER (PARTITION BY p.row_idx ORDER BY f.value DESC, f.feature) AS rank,
        p.row_idx
    FROM feature_acts f
    JOIN patches p ON p.row_idx = f.row_idx
    WHERE f.sae_id = $sae
        AND f.run_id = $run
        AND ($feature IS NULL OR f.feature = $feature)
        AND f.row_idx BETWEEN (SELECT min(row_idx) FROM patches) AND (SELECT max(row_idx) FROM patches)
)
FROM ranked
WHERE rank <= $top
ORDER BY tile, patch_row, patch_col, rank
