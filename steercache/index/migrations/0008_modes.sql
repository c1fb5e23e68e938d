-- How answers were computed. Files from before this column do not say.

ALTER TABLE answers ADD COLUMN mode VARCHAR;
COMMENT ON COLUMN answers.mode IS 'how it was computed: full, replay or branch; NULL for failed ones, and where older files do not say';
COMMENT ON COLUMN cells.mode IS 'how its answers were computed: full, replay or branch; of several the first of these';
COMMENT ON COLUMN cells.exact IS 'whether its answers are those of the full steered forward, but for near-ties; NULL where it has none';
