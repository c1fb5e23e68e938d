-- name: sweeps_overview
-- kind: table
-- summary: Every sweep (grid, evaluation or analysis) with its status and how many cells and answers it has, newest first.
-- returns:
--   name: name
--   sweep_id: id
--   status: running, complete or partly_failed
--   n_cells: cells with answers
--   n_answers: answers
--   n_failed: answers that failed
--   created_at: when it was saved, UTC
SELECT
    s.name,
    s.sweep_id,
    s.status,
    count(DISTINCT a.cell_id) AS n_cells,
    count(a.sample_id) AS n_answers,
    count(a.sample_id) FILTER (a.status = 'failed') AS n_failed,
    s.created_at
FROM sweeps s
LEFT JOIN answers a ON a.sweep_id = s.sweep_id
GROUP BY s.name, s.sweep_id, s.status, s.created_at
ORDER BY s.created_at DESC, s.sweep_id
