-- `answers NATURAL JOIN cells` joined by `mode` too, and left out answers that were computed in another way than their cell's first.

ALTER TABLE cells RENAME COLUMN mode TO answer_mode;
