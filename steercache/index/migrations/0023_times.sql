-- Tokens of sounds have a time. Runs from before have no sounds, so that nothing is read again.

ALTER TABLE tokens ADD COLUMN time_ms INTEGER;
COMMENT ON COLUMN tokens.tile IS 'image: tile of the picture, counted on from picture to picture; video, audio: number of the video or sound in the prompt; -1 for other tokens';
COMMENT ON COLUMN tokens.time_ms IS 'audio: milliseconds from the beginning of the sound at which the token begins; -1 for other tokens; NULL in runs from before there were sounds';
