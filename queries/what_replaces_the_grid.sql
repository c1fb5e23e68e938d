-- name: what_replaces_the_grid
-- kind: table
-- summary: How much of the exhaustive grid's gain other ways of choosing a cell reach, and at what cost.
-- params:
--   sweep: {type: text, default: null, help: only the sweep of this id or name}
--   measure: {type: text, default: null, help: accuracy or margin}
-- returns:
--   sweep: name of the sweep
--   vector: name of the vector
--   measure: accuracy or mean answer margin
--   way: how the cell was chosen
--   layer: decoder block of the cell chosen on the whole search split
--   alpha: its strength
--   target: tokens that it steers
--   gain: its gain on the search split
--   gain_low: lower end of the 95 % interval, as if nothing had been chosen
--   gain_high: upper end
--   share_kept: of the exhaustive winner's gain, mean over resamples
--   gain_held_out: gain of a resample's choice on the pictures left out of it, mean
--   answers_share: answers computed, of the exhaustive grid's
--   work_share: forward work with the gradient run's, of the exhaustive grid's
--   promise_kept: of a race, share of resamples whose winner is within the tolerance of the best
--   n_cells: cells of the grid
--   n_samples: questions
SELECT
    w.name AS sweep,
    v.name AS vector,
    s.measure,
    s.way,
    c.layer,
    c.alpha,
    c.target,
    s.gain,
    s.gain_low,
    s.gain_high,
    s.share_kept,
    s.gain_held_out,
    s.answers_share,
    s.work_share,
    s.promise_kept,
    s.n_cells,
    s.n_samples
FROM searches s
JOIN sweeps w ON w.sweep_id = s.sweep_id
LEFT JOIN cells c ON c.sweep_id = s.sweep_id AND c.cell_id = s.cell_id
LEFT JOIN (SELECT DISTINCT vector_id, name FROM vectors) v ON v.vector_id = s.vector_id
WHERE ($sweep IS NULL OR $sweep IN (w.sweep_id, w.name)) AND ($measure IS NULL OR s.measure = $measure)
ORDER BY sweep, s.sweep_id, s.vector_id, s.measure, s.work_share DESC, s.way
