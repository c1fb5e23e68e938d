-- What was done with a cell's vector: added, projected out, ... (core/operations.py).

DROP VIEW answers_with_cells;
ALTER TABLE cells ADD COLUMN operation VARCHAR;
COMMENT ON COLUMN cells.operation IS 'what was done with the vector: add, project_out, clamp:value=2.0, ...; NULL in files from before there was a choice, which added';

CREATE VIEW answers_with_cells AS
SELECT
    a.sweep_id,
    w.name AS sweep,
    a.cell_id,
    a.sample_id,
    a.split,
    c.vector_id,
    v.name AS vector,
    v.control_kind,
    c.layer,
    c.alpha,
    c.alpha_unit,
    c.unit_norm,
    CASE WHEN c.vector_id IS NOT NULL THEN coalesce(c.operation, 'add') END AS operation,
    c.target,
    c.site,
    c.model_id,
    c.model_fingerprint,
    c.preprocessing,
    c.prompt_id,
    c.decoding,
    a.raw,
    a.parsed,
    a.correct,
    a.margin,
    a.score,
    a.status,
    a.error,
    a.mode
FROM answers a
LEFT JOIN sweeps w ON w.sweep_id = a.sweep_id
LEFT JOIN cells c ON c.sweep_id = a.sweep_id AND c.cell_id = a.cell_id
LEFT JOIN (SELECT DISTINCT vector_id, name, control_kind FROM vectors) v ON v.vector_id = c.vector_id;
COMMENT ON VIEW answers_with_cells IS 'One row per answer, with its sweep, cell and vector: read this instead of joining answers to cells.';
COMMENT ON COLUMN answers_with_cells.sweep_id IS 'sweep';
COMMENT ON COLUMN answers_with_cells.sweep IS 'name of the sweep';
COMMENT ON COLUMN answers_with_cells.cell_id IS 'cell; sweeps share the cell_id of equal cells, so that an answer is found by (sweep_id, cell_id, sample_id)';
COMMENT ON COLUMN answers_with_cells.sample_id IS 'hash of the input';
COMMENT ON COLUMN answers_with_cells.split IS 'split the sample was in';
COMMENT ON COLUMN answers_with_cells.vector_id IS 'vector that was added; NULL for the baseline';
COMMENT ON COLUMN answers_with_cells.vector IS 'name of the vector; NULL for the baseline, and for a vector that is not in the cache';
COMMENT ON COLUMN answers_with_cells.control_kind IS 'how a control vector was made; NULL for a real one';
COMMENT ON COLUMN answers_with_cells.layer IS 'zero-based decoder block; NULL for the baseline';
COMMENT ON COLUMN answers_with_cells.alpha IS 'strength';
COMMENT ON COLUMN answers_with_cells.alpha_unit IS 'raw, resid_norm or target_norm';
COMMENT ON COLUMN answers_with_cells.unit_norm IS 'median row norm that alpha counts in; NULL for raw strengths';
COMMENT ON COLUMN answers_with_cells.operation IS 'what was done with the vector: add, project_out, clamp:value=2.0, ...; NULL for the baseline';
COMMENT ON COLUMN answers_with_cells.target IS 'tokens that were steered';
COMMENT ON COLUMN answers_with_cells.site IS 'site where it was added';
COMMENT ON COLUMN answers_with_cells.model_id IS 'name of the model manifest';
COMMENT ON COLUMN answers_with_cells.model_fingerprint IS 'hash over weights and config';
COMMENT ON COLUMN answers_with_cells.preprocessing IS 'digest of tokenizer and processor; NULL in files from before it was kept';
COMMENT ON COLUMN answers_with_cells.prompt_id IS 'prompt and data of the questions';
COMMENT ON COLUMN answers_with_cells.decoding IS 'decoding settings';
COMMENT ON COLUMN answers_with_cells.raw IS 'what the model wrote';
COMMENT ON COLUMN answers_with_cells.parsed IS 'the answer as read from the text; NULL where none could be read';
COMMENT ON COLUMN answers_with_cells.correct IS 'whether it is right; NULL when the task has no right answer or it failed';
COMMENT ON COLUMN answers_with_cells.margin IS 'log p(right) - max log p(wrong)';
COMMENT ON COLUMN answers_with_cells.score IS 'number of the task, such as a probability';
COMMENT ON COLUMN answers_with_cells.status IS 'ok or failed';
COMMENT ON COLUMN answers_with_cells.error IS 'why it failed';
COMMENT ON COLUMN answers_with_cells.mode IS 'execution mode: full, replay or branch; NULL for failed answers, and where an older version did not record it';
