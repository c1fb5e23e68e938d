-- Tokens as people read them: the characters that a token covers, not the vocabulary's own spelling of it.

CREATE VIEW tokens_with_text AS
SELECT
    t.run_id,
    r.name AS run,
    t.sample_idx,
    s.sample_id,
    s.dataset,
    s.concept,
    t.position,
    t.row_idx,
    t.token_id,
    CASE
        WHEN t.char_start >= 0 AND t.char_end > t.char_start
        THEN substring(s.text, t.char_start + 1, t.char_end - t.char_start)
        ELSE t.piece
    END AS token_text,
    t.piece,
    t.kind,
    t.is_anchor,
    t.is_control
FROM tokens t
JOIN samples s USING (run_id, sample_idx)
JOIN runs r USING (run_id);
COMMENT ON VIEW tokens_with_text IS 'One row per token, with the text that it covers, its run and its sample.';
COMMENT ON COLUMN tokens_with_text.run_id IS 'run';
COMMENT ON COLUMN tokens_with_text.run IS 'name of the run';
COMMENT ON COLUMN tokens_with_text.sample_idx IS 'sample within the run';
COMMENT ON COLUMN tokens_with_text.sample_id IS 'hash of the input';
COMMENT ON COLUMN tokens_with_text.dataset IS 'data set of the sample';
COMMENT ON COLUMN tokens_with_text.concept IS 'concept of the sample';
COMMENT ON COLUMN tokens_with_text.position IS 'token within the sample, from 0';
COMMENT ON COLUMN tokens_with_text.row_idx IS 'row of the activation arrays; NULL where none was kept';
COMMENT ON COLUMN tokens_with_text.token_id IS 'id in the vocabulary';
COMMENT ON COLUMN tokens_with_text.token_text IS 'characters of the sample that the token covers; the piece where it covers none';
COMMENT ON COLUMN tokens_with_text.piece IS 'token as the tokenizer writes it, such as Ġthree';
COMMENT ON COLUMN tokens_with_text.kind IS 'text, special, image or template';
COMMENT ON COLUMN tokens_with_text.is_anchor IS 'whether it is part of an anchor';
COMMENT ON COLUMN tokens_with_text.is_control IS 'whether it is a control';
