-- A cell may have several vectors: its parts (core/trials.py). `cell_parts` has every cell as its parts, one row each.

ALTER TABLE cells ADD COLUMN parts JSON;
COMMENT ON COLUMN cells.parts IS 'of a cell of several vectors: its parts as JSON, lowest layer first and at one layer in the order in which they act (read the view cell_parts); the other columns are then what the parts share, or the word several; layer is the lowest, vector_id the id of the combination. NULL for a single vector';

CREATE VIEW cell_parts AS
WITH several AS (
    SELECT
        sweep_id,
        cell_id,
        from_json(
            parts,
            '[{"vector_id": "VARCHAR", "layer": "INTEGER", "alpha": "DOUBLE", "alpha_unit": "VARCHAR", "unit_norm": "DOUBLE", "operation": "VARCHAR", "site": "VARCHAR", "target": "VARCHAR"}]'
        ) AS listed
    FROM cells
    WHERE parts IS NOT NULL
),
every AS (
    SELECT
        sweep_id, cell_id, 0 AS part, vector_id, layer, alpha, alpha_unit, unit_norm, coalesce(operation, 'add') AS operation, site, target
    FROM cells
    WHERE parts IS NULL AND vector_id IS NOT NULL
    UNION ALL
    SELECT
        sweep_id,
        cell_id,
        (part - 1)::INTEGER,
        listed[part].vector_id,
        listed[part].layer,
        listed[part].alpha,
        listed[part].alpha_unit,
        listed[part].unit_norm,
        listed[part].operation,
        listed[part].site,
        listed[part].target
    FROM (SELECT sweep_id, cell_id, listed, unnest(range(1, len(listed) + 1)) AS part FROM several)
)
SELECT
    e.sweep_id,
    e.cell_id,
    e.part,
    e.vector_id,
    v.name AS vector,
    v.control_kind,
    e.layer,
    e.alpha,
    e.alpha_unit,
    e.unit_norm,
    e.operation,
    e.site,
    e.target
FROM every e
LEFT JOIN (SELECT DISTINCT vector_id, name, control_kind FROM vectors) v ON v.vector_id = e.vector_id;
COMMENT ON VIEW cell_parts IS 'One row per vector of a cell: a plain cell has one, a cell of several vectors as many as it combines, the baseline none.';
COMMENT ON COLUMN cell_parts.sweep_id IS 'sweep that the cell belongs to; join cells on (sweep_id, cell_id)';
COMMENT ON COLUMN cell_parts.cell_id IS 'cell';
COMMENT ON COLUMN cell_parts.part IS 'place in the order in which the parts act, from 0';
COMMENT ON COLUMN cell_parts.vector_id IS 'vector of the part';
COMMENT ON COLUMN cell_parts.vector IS 'name of the vector; NULL for one that is not in the cache';
COMMENT ON COLUMN cell_parts.control_kind IS 'how a control vector was made; NULL for a real one';
COMMENT ON COLUMN cell_parts.layer IS 'zero-based decoder block';
COMMENT ON COLUMN cell_parts.alpha IS 'strength';
COMMENT ON COLUMN cell_parts.alpha_unit IS 'raw, resid_norm, target_norm or kl';
COMMENT ON COLUMN cell_parts.unit_norm IS 'median row norm that alpha counts in, or the raw strength for each nat; NULL for raw strengths';
COMMENT ON COLUMN cell_parts.operation IS 'what was done with the vector: add, project_out, clamp:value=2.0, ...';
COMMENT ON COLUMN cell_parts.site IS 'site where it was done';
COMMENT ON COLUMN cell_parts.target IS 'tokens that were steered';
