-- When a sweep was saved. Indexes from before have NULL: forgetting their files makes the next catching up read them again.

DELETE FROM seen WHERE path LIKE 'sweeps/%';
COMMENT ON COLUMN sweeps.created_at IS 'when it was last saved, UTC; of a sweep that does not say, when its file was written';
