-- What a run's rows stand for, and the type ids that a forward needs again. Runs come anew from their files.

DELETE FROM seen;
ALTER TABLE runs ADD COLUMN row_kind VARCHAR;
COMMENT ON COLUMN runs.row_kind IS 'what a row stands for: token, pooled (mean over the tokens of one kind) or sample_target';
ALTER TABLE tokens ADD COLUMN token_type TINYINT;
COMMENT ON COLUMN tokens.token_type IS 'what the model reads beside the id (token_type_ids, mm_token_type_ids); NULL where it reads none';
COMMENT ON COLUMN tokens.position IS 'place in the sample, from 0, without padding; -1 for a pooled row, whose kind says what it is the mean of';
COMMENT ON COLUMN tokens.row_idx IS 'row on the arrays'' row axis, NULL when the row policy dropped it; questions about one picture may share it';
COMMENT ON COLUMN tokens.token_id IS 'id in the tokenizer''s vocabulary; -1 for pooled rows and patches of a vision tower';
COMMENT ON TABLE tokens IS 'One row per token of a run, kept or not, and per pooled row. In a run of vision_out the tokens are the tower''s patches. No index on purpose: zone maps are enough and cost nothing.';
