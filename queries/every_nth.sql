-- name: every_nth
-- kind: selection
-- summary: Every n-th kept row of a run, without position 0; a cheap sample that is the same every time.
-- params:
--   n: {type: integer, minimum: 1, help: one row out of so many}
--   run: {type: run, default: newest, help: "run by name, id or prefix; the newest complete run"}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
SELECT run_id, row_idx
FROM tokens
WHERE run_id = $run AND position <> 0 AND row_idx % $n = 0
