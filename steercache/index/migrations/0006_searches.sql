-- What other ways of choosing a cell reach of an exhaustive grid's gain, and at what cost: from searches.json of a sweep.

CREATE TABLE searches (
    sweep_id VARCHAR NOT NULL,
    vector_id VARCHAR NOT NULL,
    way VARCHAR NOT NULL,
    measure VARCHAR NOT NULL,
    cell_id VARCHAR NOT NULL,
    n_cells INTEGER NOT NULL,
    n_samples INTEGER NOT NULL,
    n_run DOUBLE NOT NULL,
    answers DOUBLE NOT NULL,
    answers_share DOUBLE NOT NULL,
    work DOUBLE NOT NULL,
    work_share DOUBLE NOT NULL,
    gain DOUBLE NOT NULL,
    gain_low DOUBLE,
    gain_high DOUBLE,
    share_kept DOUBLE,
    gain_held_out DOUBLE,
    promise_kept DOUBLE,
    n_resamples INTEGER NOT NULL,
    params JSON
);
COMMENT ON TABLE searches IS 'One row per sweep, vector, way of choosing a cell, and measure of gain: what replaces the exhaustive grid.';
COMMENT ON COLUMN searches.sweep_id IS 'sweep whose stored answers it was worked out from';
COMMENT ON COLUMN searches.vector_id IS 'vector whose cells were chosen among';
COMMENT ON COLUMN searches.way IS 'exhaustive, screening, screen-first, racing, screen-first + racing, best-auc layer, auc and norm, or random cells';
COMMENT ON COLUMN searches.measure IS 'accuracy, or margin: the mean answer margin';
COMMENT ON COLUMN searches.cell_id IS 'cell chosen on the whole search split';
COMMENT ON COLUMN searches.n_cells IS 'cells of the grid';
COMMENT ON COLUMN searches.n_samples IS 'questions of the search split that have a margin';
COMMENT ON COLUMN searches.n_run IS 'cells run, wholly or in part; mean over the resamples';
COMMENT ON COLUMN searches.answers IS 'answers computed, without the unsteered ones; mean over the resamples';
COMMENT ON COLUMN searches.answers_share IS 'of the exhaustive grid''s';
COMMENT ON COLUMN searches.work IS 'forward passes of one question through all blocks, a gradient run included; mean over the resamples';
COMMENT ON COLUMN searches.work_share IS 'of the exhaustive grid''s';
COMMENT ON COLUMN searches.gain IS 'of the cell chosen on the whole split, on that split';
COMMENT ON COLUMN searches.gain_low IS 'lower end of its 95 % interval, as if nothing had been chosen';
COMMENT ON COLUMN searches.gain_high IS 'upper end';
COMMENT ON COLUMN searches.share_kept IS 'of the exhaustive winner''s gain in the same resample, mean over the resamples in which that gain is positive';
COMMENT ON COLUMN searches.gain_held_out IS 'gain of each resample''s choice on the pictures left out of it, mean: what choosing in this way is worth';
COMMENT ON COLUMN searches.promise_kept IS 'of a race: share of resamples whose winner is within the tolerance of the best; NULL for others';
COMMENT ON COLUMN searches.n_resamples IS 'resamples of pictures';
COMMENT ON COLUMN searches.params IS 'share of cells run, tolerance, error, seed, trust, and the gradient run';
