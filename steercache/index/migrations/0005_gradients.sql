-- Rows of gradient runs: what each gradient is of. Their files bring these columns; everything else has none.

ALTER TABLE tokens ADD COLUMN target VARCHAR;
COMMENT ON COLUMN tokens.target IS 'row of a gradient run: the tokens that its gradient is summed over (image, text, both, ...); NULL for others';
ALTER TABLE tokens ADD COLUMN option_idx SMALLINT;
COMMENT ON COLUMN tokens.option_idx IS 'row of a gradient run: answer option, in the order of samples.choices, from 0';
ALTER TABLE tokens ADD COLUMN margin FLOAT;
COMMENT ON COLUMN tokens.margin IS 'row of a gradient run: unsteered margin of the option, whose gradient the row is';
ALTER TABLE tokens ADD COLUMN n_steered INTEGER;
COMMENT ON COLUMN tokens.n_steered IS 'row of a gradient run: tokens of the sample that the target hits';
ALTER TABLE tokens ADD COLUMN row_norms FLOAT[];
COMMENT ON COLUMN tokens.row_norms IS 'row of a gradient run: median norm of these tokens'' rows (position 0 left out), by the run''s layers';

CREATE VIEW gradients AS
SELECT
    t.run_id,
    t.sample_idx,
    s.sample_id,
    s.split,
    t.target,
    t.option_idx,
    s.choices[t.option_idx + 1] AS choice,
    t.piece,
    t.margin,
    t.n_steered,
    t.row_norms,
    t.row_idx
FROM tokens t
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
WHERE t.target IS NOT NULL;
COMMENT ON VIEW gradients IS 'One row per sample, target and answer option of a gradient run; activation(run_id, ''margin_grad'', layer, row_idx) is the gradient.';
COMMENT ON COLUMN gradients.run_id IS 'gradient run';
COMMENT ON COLUMN gradients.sample_idx IS 'sample within the run';
COMMENT ON COLUMN gradients.sample_id IS 'hash of the input, as in answers';
COMMENT ON COLUMN gradients.split IS 'label: split of the data set';
COMMENT ON COLUMN gradients.target IS 'tokens that the gradient is summed over';
COMMENT ON COLUMN gradients.option_idx IS 'answer option, from 0';
COMMENT ON COLUMN gradients.choice IS 'label: the option''s own words';
COMMENT ON COLUMN gradients.piece IS 'first token of the option, which its probability is read from';
COMMENT ON COLUMN gradients.margin IS 'unsteered margin: log p(option) - mean log p(other options)';
COMMENT ON COLUMN gradients.n_steered IS 'tokens that the target hits';
COMMENT ON COLUMN gradients.row_norms IS 'median norm of these tokens'' rows (position 0 left out), by the run''s layers';
COMMENT ON COLUMN gradients.row_idx IS 'row on the arrays'' row axis';
