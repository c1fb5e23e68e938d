-- Tokens of videos and of sounds have kinds of their own, patches of a video a frame. What older files hold is the same under both, so
-- that nothing is read again.

ALTER TABLE tokens ALTER COLUMN kind TYPE VARCHAR;
DROP TYPE token_kind;
CREATE TYPE token_kind AS ENUM ('text', 'special', 'image', 'template', 'video', 'audio');
ALTER TABLE tokens ALTER COLUMN kind TYPE token_kind;
ALTER TABLE tokens ADD COLUMN frame SMALLINT;
COMMENT ON COLUMN tokens.kind IS 'text (the example''s own), special (structure), image, video (patches of a video), audio (stretches of a sound), or template (what a chat template writes around the text: system prompt, role words, generation prompt; runs from before this kind was known call it text)';
COMMENT ON COLUMN tokens.tile IS 'image: tile of the picture, counted on from picture to picture; video: number of the video in the prompt; -1 for other tokens';
COMMENT ON COLUMN tokens.frame IS 'video: the first frame that the patch is made of, from 0; -1 for other tokens; NULL in runs from before there were videos';
