-- name: all_rows
-- kind: selection
-- summary: Every kept row of a run; position 0, the attention sink, only when asked for.
-- params:
--   run: {type: run, default: newest, help: "run by name, id or prefix; the newest complete run"}
--   first_position: {type: boolean, default: false, help: keep the rows of position 0}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
SELECT run_id, row_idx
FROM tokens
WHERE run_id = $run AND row_idx IS NOT NULL AND ($first_position OR position <> 0)
