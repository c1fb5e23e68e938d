-- Tokens of chat templates have a kind of their own, and a label says which samples have controls. What older files hold is the same
-- under both, so that nothing is read again.

ALTER TABLE tokens ALTER COLUMN kind TYPE VARCHAR;
DROP TYPE token_kind;
CREATE TYPE token_kind AS ENUM ('text', 'special', 'image', 'template');
ALTER TABLE tokens ALTER COLUMN kind TYPE token_kind;
COMMENT ON COLUMN tokens.kind IS 'text (the example''s own), special (structure), image, or template (what a chat template writes around the text: system prompt, role words, generation prompt; runs from before this kind was known call it text)';
COMMENT ON COLUMN tokens.is_control IS 'text token of a sample with anchors (or with the label controls), not an anchor itself, position > 0; never a token of a template';
ALTER TABLE samples ADD COLUMN controls BOOLEAN;
COMMENT ON COLUMN samples.controls IS 'label: whether text tokens that are no anchors are controls; NULL: where the sample has anchors';
