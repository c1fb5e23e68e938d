-- The tables of the index. A column is added by a later migration, never renamed or dropped.

CREATE TYPE token_kind AS ENUM ('text', 'special', 'image');

CREATE TABLE runs (
    run_id VARCHAR NOT NULL,
    name VARCHAR,
    model_id VARCHAR,
    model_fingerprint VARCHAR,
    backbone_run_id VARCHAR,
    parent_run_id VARCHAR,
    modality VARCHAR,
    dtype VARCHAR,
    hidden_size INTEGER,
    n_layers INTEGER,
    replayable BOOLEAN,
    complete BOOLEAN,
    generation VARCHAR,
    created_at TIMESTAMP,
    manifest JSON,
    numerics JSON,
    datasets VARCHAR[]
);
COMMENT ON TABLE runs IS 'One row per run: one trace of one model over its data sets.';
COMMENT ON COLUMN runs.run_id IS 'SHA-256 of what reaches the model and what is kept, 64 hex digits';
COMMENT ON COLUMN runs.name IS 'name of the trace manifest; several runs may share it';
COMMENT ON COLUMN runs.model_id IS 'name of the model manifest';
COMMENT ON COLUMN runs.model_fingerprint IS 'hash over the weights (name, dtype, shape, bytes) and the config';
COMMENT ON COLUMN runs.backbone_run_id IS 'run of the text backbone that this model grew from';
COMMENT ON COLUMN runs.parent_run_id IS 'run whose samples these rows belong to (gradient runs)';
COMMENT ON COLUMN runs.modality IS 'text or multimodal';
COMMENT ON COLUMN runs.dtype IS 'dtype of the stored values: float32, bfloat16 or float16';
COMMENT ON COLUMN runs.hidden_size IS 'width of the residual stream';
COMMENT ON COLUMN runs.n_layers IS 'decoder blocks of the model, kept or not';
COMMENT ON COLUMN runs.replayable IS 'whether a forward can be continued from the stored rows';
COMMENT ON COLUMN runs.complete IS 'whether every planned shard is committed';
COMMENT ON COLUMN runs.generation IS 'generation in use, such as g0001';
COMMENT ON COLUMN runs.created_at IS 'when the run began, UTC';
COMMENT ON COLUMN runs.manifest IS 'the frozen trace manifest';
COMMENT ON COLUMN runs.numerics IS 'batch plan, padding side, attention, threads and library versions, frozen when the run began';
COMMENT ON COLUMN runs.datasets IS 'names of the data sets, in the order they were traced';

CREATE TABLE sites (
    run_id VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    layer INTEGER NOT NULL,
    layer_pos INTEGER NOT NULL,
    width INTEGER NOT NULL
);
COMMENT ON TABLE sites IS 'One row per run, site and kept block.';
COMMENT ON COLUMN sites.run_id IS 'run';
COMMENT ON COLUMN sites.site IS 'where in the block the rows were taken: resid_post, resid_pre, attn_out, mlp_out, ...';
COMMENT ON COLUMN sites.layer IS 'zero-based decoder block; -1 where the site has none';
COMMENT ON COLUMN sites.layer_pos IS 'position on the array''s layer axis';
COMMENT ON COLUMN sites.width IS 'values per row';

CREATE TABLE shards (
    run_id VARCHAR NOT NULL,
    shard_idx INTEGER NOT NULL,
    n_rows INTEGER NOT NULL,
    n_bytes BIGINT NOT NULL,
    digest VARCHAR NOT NULL,
    committed_at TIMESTAMP,
    first_sample INTEGER NOT NULL,
    n_samples INTEGER NOT NULL
);
COMMENT ON TABLE shards IS 'One row per committed shard: the unit of work, commit and resume.';
COMMENT ON COLUMN shards.run_id IS 'run';
COMMENT ON COLUMN shards.shard_idx IS 'number of the shard within its run, from 0';
COMMENT ON COLUMN shards.n_rows IS 'rows in use';
COMMENT ON COLUMN shards.n_bytes IS 'bytes of all files of the shard';
COMMENT ON COLUMN shards.digest IS 'SHA-256 of the shard''s record: files, sizes and checksums';
COMMENT ON COLUMN shards.committed_at IS 'when the shard''s record got its name, UTC';
COMMENT ON COLUMN shards.first_sample IS 'sample_idx of its first sample';
COMMENT ON COLUMN shards.n_samples IS 'whole samples in it';

CREATE TABLE samples (
    run_id VARCHAR NOT NULL,
    shard_idx INTEGER NOT NULL,
    sample_idx INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    sample_id VARCHAR NOT NULL,
    dataset VARCHAR NOT NULL,
    split VARCHAR,
    concept VARCHAR,
    text VARCHAR,
    question VARCHAR,
    choices VARCHAR[],
    answer VARCHAR,
    image_digest VARCHAR,
    group_id VARCHAR,
    pair_id VARCHAR,
    polarity TINYINT,
    batch_no INTEGER,
    slot INTEGER,
    padded_len INTEGER,
    n_tokens INTEGER NOT NULL,
    anchors STRUCT("start" INTEGER, "end" INTEGER)[],
    meta JSON
);
COMMENT ON TABLE samples IS 'One row per input of a run, with the labels known about it.';
COMMENT ON COLUMN samples.run_id IS 'run';
COMMENT ON COLUMN samples.shard_idx IS 'shard that holds the sample''s rows';
COMMENT ON COLUMN samples.sample_idx IS 'number of the sample within its run, from 0';
COMMENT ON COLUMN samples.ordinal IS 'number of the sample within its data set, from 0';
COMMENT ON COLUMN samples.sample_id IS 'hash of what reached the model: token ids, extras, image bytes';
COMMENT ON COLUMN samples.dataset IS 'data set it came from';
COMMENT ON COLUMN samples.split IS 'label: split of the data set';
COMMENT ON COLUMN samples.concept IS 'label: concept that the sample carries';
COMMENT ON COLUMN samples.text IS 'the text as the model read it, template included';
COMMENT ON COLUMN samples.question IS 'label: the question alone';
COMMENT ON COLUMN samples.choices IS 'label: answer options';
COMMENT ON COLUMN samples.answer IS 'label: right answer';
COMMENT ON COLUMN samples.image_digest IS 'SHA-256 of the image bytes';
COMMENT ON COLUMN samples.group_id IS 'label: samples that must not be split apart (one picture, one source)';
COMMENT ON COLUMN samples.pair_id IS 'label: contrastive pair';
COMMENT ON COLUMN samples.polarity IS 'label: +1 or -1 within the pair';
COMMENT ON COLUMN samples.batch_no IS 'batch of the shard in which it was computed';
COMMENT ON COLUMN samples.slot IS 'row of that batch';
COMMENT ON COLUMN samples.padded_len IS 'length of that batch, padding included';
COMMENT ON COLUMN samples.n_tokens IS 'tokens without padding';
COMMENT ON COLUMN samples.anchors IS 'label: half-open character spans in text that carry the concept';
COMMENT ON COLUMN samples.meta IS 'label: anything else that the data set said';

CREATE TABLE tokens (
    run_id VARCHAR NOT NULL,
    shard_idx INTEGER NOT NULL,
    sample_idx INTEGER NOT NULL,
    position INTEGER NOT NULL,
    row_idx BIGINT,
    token_id INTEGER NOT NULL,
    piece VARCHAR,
    char_start INTEGER,
    char_end INTEGER,
    kind token_kind NOT NULL,
    is_anchor BOOLEAN NOT NULL,
    is_control BOOLEAN NOT NULL,
    tile SMALLINT,
    patch_row SMALLINT,
    patch_col SMALLINT
);
COMMENT ON TABLE tokens IS 'One row per token of a run, kept or not. No index on purpose: zone maps are enough and cost nothing.';
COMMENT ON COLUMN tokens.run_id IS 'run';
COMMENT ON COLUMN tokens.shard_idx IS 'shard that holds the token''s row';
COMMENT ON COLUMN tokens.sample_idx IS 'sample within the run';
COMMENT ON COLUMN tokens.position IS 'place in the sample, from 0, without padding';
COMMENT ON COLUMN tokens.row_idx IS 'row on the arrays'' row axis; NULL when the row policy dropped it';
COMMENT ON COLUMN tokens.token_id IS 'id in the tokenizer''s vocabulary';
COMMENT ON COLUMN tokens.piece IS 'the token as the tokenizer writes it';
COMMENT ON COLUMN tokens.char_start IS 'first character in samples.text; -1 without characters';
COMMENT ON COLUMN tokens.char_end IS 'one past its last character; -1 without characters';
COMMENT ON COLUMN tokens.kind IS 'text, special or image';
COMMENT ON COLUMN tokens.is_anchor IS 'its characters overlap an anchor span of its sample';
COMMENT ON COLUMN tokens.is_control IS 'text token of a sample with anchors, not an anchor itself, position > 0';
COMMENT ON COLUMN tokens.tile IS 'image tile; -1 for other tokens';
COMMENT ON COLUMN tokens.patch_row IS 'row of the image patch in its tile; -1 for other tokens';
COMMENT ON COLUMN tokens.patch_col IS 'column of the image patch in its tile; -1 for other tokens';

CREATE TABLE vectors (
    vector_id VARCHAR NOT NULL,
    name VARCHAR,
    method VARCHAR,
    concept VARCHAR,
    site VARCHAR,
    layer INTEGER NOT NULL,
    norm FLOAT,
    resid_norm FLOAT,
    auc FLOAT,
    run_id VARCHAR,
    generation VARCHAR,
    query_name VARCHAR,
    query_text VARCHAR,
    params JSON,
    control_kind VARCHAR,
    control_seed BIGINT,
    created_at TIMESTAMP,
    hidden_size INTEGER
);
COMMENT ON TABLE vectors IS 'One row per steering vector and layer.';
COMMENT ON COLUMN vectors.vector_id IS 'SHA-256 over the values and how they were made';
COMMENT ON COLUMN vectors.name IS 'name given when it was saved; the newest of a name answers to it';
COMMENT ON COLUMN vectors.method IS 'mean_shift, linear_probe, sae, random, ...';
COMMENT ON COLUMN vectors.concept IS 'concept it stands for';
COMMENT ON COLUMN vectors.site IS 'site where it is added';
COMMENT ON COLUMN vectors.layer IS 'zero-based decoder block';
COMMENT ON COLUMN vectors.norm IS 'Euclidean norm of this layer''s direction';
COMMENT ON COLUMN vectors.resid_norm IS 'median norm of the residual rows at this layer, position 0 left out';
COMMENT ON COLUMN vectors.auc IS 'held-out area under the curve of projections on the direction';
COMMENT ON COLUMN vectors.run_id IS 'run it was fitted on';
COMMENT ON COLUMN vectors.generation IS 'generation of that run';
COMMENT ON COLUMN vectors.query_name IS 'query that picked the rows';
COMMENT ON COLUMN vectors.query_text IS 'text of that query';
COMMENT ON COLUMN vectors.params IS 'bindings of the query and settings of the fit';
COMMENT ON COLUMN vectors.control_kind IS 'how a control vector was made; NULL for a real one';
COMMENT ON COLUMN vectors.control_seed IS 'seed of a control vector';
COMMENT ON COLUMN vectors.created_at IS 'when it was saved, UTC';
COMMENT ON COLUMN vectors.hidden_size IS 'width of the direction';

CREATE TABLE features (
    sae_id VARCHAR NOT NULL,
    layer INTEGER NOT NULL,
    feature_idx INTEGER NOT NULL,
    concept VARCHAR,
    hits INTEGER,
    score FLOAT,
    rank INTEGER,
    rate_anchor FLOAT,
    rate_control FLOAT,
    explanation VARCHAR,
    verdict VARCHAR,
    verdict_digest VARCHAR
);
COMMENT ON TABLE features IS 'One row per SAE feature considered for a concept.';
COMMENT ON COLUMN features.sae_id IS 'SAE checkpoint';
COMMENT ON COLUMN features.layer IS 'zero-based decoder block';
COMMENT ON COLUMN features.feature_idx IS 'latent';
COMMENT ON COLUMN features.concept IS 'concept it was considered for';
COMMENT ON COLUMN features.hits IS 'sentences in whose top features it was';
COMMENT ON COLUMN features.score IS 'summed rank weight';
COMMENT ON COLUMN features.rank IS 'place by score, from 1';
COMMENT ON COLUMN features.rate_anchor IS 'share of anchor rows on which it fires';
COMMENT ON COLUMN features.rate_control IS 'share of control rows on which it fires';
COMMENT ON COLUMN features.explanation IS 'what it is said to respond to';
COMMENT ON COLUMN features.verdict IS 'yes, no or unknown';
COMMENT ON COLUMN features.verdict_digest IS 'file that holds the verdict';

CREATE TABLE sweeps (
    sweep_id VARCHAR NOT NULL,
    name VARCHAR,
    manifest JSON,
    status VARCHAR,
    created_at TIMESTAMP
);
COMMENT ON TABLE sweeps IS 'One row per sweep: a set of cells answered together.';
COMMENT ON COLUMN sweeps.sweep_id IS 'id of the sweep';
COMMENT ON COLUMN sweeps.name IS 'name given to it';
COMMENT ON COLUMN sweeps.manifest IS 'what was asked for';
COMMENT ON COLUMN sweeps.status IS 'running, complete or partly_failed';
COMMENT ON COLUMN sweeps.created_at IS 'when it was saved, UTC';

CREATE TABLE cells (
    cell_id VARCHAR NOT NULL,
    vector_id VARCHAR,
    layer INTEGER,
    alpha DOUBLE NOT NULL,
    alpha_unit VARCHAR NOT NULL,
    target VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    model_id VARCHAR,
    model_fingerprint VARCHAR NOT NULL,
    prompt_id VARCHAR NOT NULL,
    decoding JSON,
    mode VARCHAR,
    exact BOOLEAN
);
COMMENT ON TABLE cells IS 'One row per setting; sweeps that asked for the same one share it.';
COMMENT ON COLUMN cells.cell_id IS 'hash of model, vector, layer, alpha, alpha_unit, target, prompt and decoding';
COMMENT ON COLUMN cells.vector_id IS 'vector that was added; NULL for the baseline';
COMMENT ON COLUMN cells.layer IS 'zero-based decoder block; NULL for the baseline';
COMMENT ON COLUMN cells.alpha IS 'strength';
COMMENT ON COLUMN cells.alpha_unit IS 'raw, or resid_norm: multiples of the median residual norm';
COMMENT ON COLUMN cells.target IS 'tokens that were steered: image, text, both, all or last';
COMMENT ON COLUMN cells.site IS 'site where it was added';
COMMENT ON COLUMN cells.model_id IS 'name of the model manifest';
COMMENT ON COLUMN cells.model_fingerprint IS 'hash over weights and config';
COMMENT ON COLUMN cells.prompt_id IS 'prompt and data it was asked with';
COMMENT ON COLUMN cells.decoding IS 'decoding settings';
COMMENT ON COLUMN cells.mode IS 'how it was computed: full, replay or branch; of several the first of these';
COMMENT ON COLUMN cells.exact IS 'whether it equals the full steered forward';

CREATE TABLE answers (
    sweep_id VARCHAR NOT NULL,
    cell_id VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    raw VARCHAR,
    parsed VARCHAR,
    correct BOOLEAN,
    margin FLOAT,
    score FLOAT,
    status VARCHAR NOT NULL,
    error VARCHAR
);
COMMENT ON TABLE answers IS 'One row per sweep, cell and sample.';
COMMENT ON COLUMN answers.sweep_id IS 'sweep';
COMMENT ON COLUMN answers.cell_id IS 'setting';
COMMENT ON COLUMN answers.sample_id IS 'hash of the input';
COMMENT ON COLUMN answers.split IS 'split the sample was in';
COMMENT ON COLUMN answers.raw IS 'what the model wrote';
COMMENT ON COLUMN answers.parsed IS 'the answer read from it; NULL when none could be';
COMMENT ON COLUMN answers.correct IS 'whether it is right; NULL when the task has no right answer or it failed';
COMMENT ON COLUMN answers.margin IS 'log p(right) - max log p(wrong)';
COMMENT ON COLUMN answers.score IS 'the task''s own number, such as a probability mass';
COMMENT ON COLUMN answers.status IS 'ok or failed';
COMMENT ON COLUMN answers.error IS 'why it failed';

CREATE VIEW trials AS
SELECT
    sweep_id,
    cell_id,
    split,
    count(*)::INTEGER AS n,
    (count(*) FILTER (status = 'failed'))::INTEGER AS n_failed,
    (count(*) FILTER (correct))::INTEGER AS n_correct,
    avg(margin) AS mean_margin,
    avg(score) AS mean_score
FROM answers
GROUP BY ALL;
COMMENT ON VIEW trials IS 'Answers counted per sweep, cell and split.';
COMMENT ON COLUMN trials.sweep_id IS 'sweep';
COMMENT ON COLUMN trials.cell_id IS 'setting';
COMMENT ON COLUMN trials.split IS 'split';
COMMENT ON COLUMN trials.n IS 'samples, failed ones included';
COMMENT ON COLUMN trials.n_failed IS 'samples that failed';
COMMENT ON COLUMN trials.n_correct IS 'samples answered right';
COMMENT ON COLUMN trials.mean_margin IS 'mean margin over the samples that have one';
COMMENT ON COLUMN trials.mean_score IS 'mean of the task''s own number';
