-- What a margin is of: the same words may be an answer to questions with other options, or with another right answer.

ALTER TABLE answers ADD COLUMN margin_of VARCHAR;
COMMENT ON COLUMN answers.margin_of IS 'digest of the options and the right one that the margin is of; NULL without a margin, and where older files do not say';
