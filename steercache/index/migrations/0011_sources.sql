-- States of files instead of times of folders, and the view that joins answers to their cells.
-- Nothing is deleted: every state of before differs from its new form, so the next catching up compares all of it.

ALTER TABLE seen RENAME COLUMN mtime_ns TO state;
COMMENT ON TABLE seen IS 'Runs, sweeps and folders of the root as they were when the index was last brought up to date.';
COMMENT ON COLUMN seen.path IS 'relative to the root';
COMMENT ON COLUMN seen.state IS 'digest of names, sizes and times of change of the files below it; -1 for files that were still changing';

CREATE TABLE sources (
    path VARCHAR NOT NULL,
    state BIGINT NOT NULL,
    id VARCHAR NOT NULL
);
COMMENT ON TABLE sources IS 'Files that rows were made from, where a change must be narrowed down to one of many.';
COMMENT ON COLUMN sources.path IS 'relative to the root: a vector''s file, or the folder of a run for its labels';
COMMENT ON COLUMN sources.state IS 'digest of size and times of change';
COMMENT ON COLUMN sources.id IS 'vector or run whose rows were made from it';

ALTER TABLE shards ADD COLUMN tables_digest VARCHAR;
COMMENT ON COLUMN shards.tables_digest IS 'SHA-256 of the records of its Parquet files, which all generations of a run share';
COMMENT ON COLUMN shards.committed_at IS 'when the last of the shard''s Parquet files was written, UTC';

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
    c.target,
    c.site,
    c.model_id,
    c.model_fingerprint,
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
COMMENT ON COLUMN answers_with_cells.unit_norm IS 'median norm of the steered rows that alpha counts in; NULL for other units';
COMMENT ON COLUMN answers_with_cells.target IS 'tokens that were steered';
COMMENT ON COLUMN answers_with_cells.site IS 'site where it was added';
COMMENT ON COLUMN answers_with_cells.model_id IS 'name of the model manifest';
COMMENT ON COLUMN answers_with_cells.model_fingerprint IS 'hash over weights and config';
COMMENT ON COLUMN answers_with_cells.prompt_id IS 'prompt and data of the questions';
COMMENT ON COLUMN answers_with_cells.decoding IS 'decoding settings';
COMMENT ON COLUMN answers_with_cells.raw IS 'what the model wrote';
COMMENT ON COLUMN answers_with_cells.parsed IS 'the answer read from it; NULL when none could be';
COMMENT ON COLUMN answers_with_cells.correct IS 'whether it is right; NULL when the task has no right answer or it failed';
COMMENT ON COLUMN answers_with_cells.margin IS 'log p(right) - max log p(wrong)';
COMMENT ON COLUMN answers_with_cells.score IS 'the task''s own number, such as a probability mass';
COMMENT ON COLUMN answers_with_cells.status IS 'ok or failed';
COMMENT ON COLUMN answers_with_cells.error IS 'why it failed';
COMMENT ON COLUMN answers_with_cells.mode IS 'how it was computed: full, replay or branch; NULL for failed ones, and where older files do not say';

COMMENT ON TABLE answers IS 'One row per sweep, cell and sample. The view answers_with_cells has the cell''s columns beside each answer.';
COMMENT ON COLUMN answers.cell_id IS 'cell; sweeps share the cell_id of equal cells: join cells on (sweep_id, cell_id), or read answers_with_cells';
COMMENT ON COLUMN cells.cell_id IS 'hash of model, vector, layer, alpha, its unit, target, prompt and decoding; unique only together with sweep_id';
COMMENT ON COLUMN cells.sweep_id IS 'sweep that asked for it; part of the key: join on (sweep_id, cell_id)';
COMMENT ON COLUMN trials.cell_id IS 'cell; join cells on (sweep_id, cell_id)';
