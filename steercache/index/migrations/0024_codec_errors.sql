-- What a lossy codec did to a run, by site and layer. Runs that were compacted before are read again, without their rows.

CREATE TABLE codec_errors (
    run_id VARCHAR NOT NULL,
    generation VARCHAR NOT NULL,
    site VARCHAR NOT NULL,
    layer INTEGER NOT NULL,
    n_rows BIGINT,
    mean_relative DOUBLE,
    max_relative DOUBLE NOT NULL,
    max_abs DOUBLE NOT NULL,
    mean_cosine DOUBLE,
    min_cosine DOUBLE NOT NULL
);
COMMENT ON TABLE codec_errors IS 'One row per site and layer of a run whose generation in force is lossy: how far its rows are from those that the model computed.';
COMMENT ON COLUMN codec_errors.run_id IS 'run';
COMMENT ON COLUMN codec_errors.generation IS 'generation in force, whose codec lost precision';
COMMENT ON COLUMN codec_errors.site IS 'where the rows were taken; join sites on (run_id, site, layer)';
COMMENT ON COLUMN codec_errors.layer IS 'decoder block, from 0; -1 for sites that have none';
COMMENT ON COLUMN codec_errors.n_rows IS 'number of rows compared: those with a finite value that is not zero; NULL in generations from before it was kept';
COMMENT ON COLUMN codec_errors.mean_relative IS 'mean over rows of |x - y| / |x|, x as computed and y as read back; NULL in generations from before it was kept';
COMMENT ON COLUMN codec_errors.max_relative IS 'largest |x - y| / |x| of a row';
COMMENT ON COLUMN codec_errors.max_abs IS 'largest absolute error of a value';
COMMENT ON COLUMN codec_errors.mean_cosine IS 'mean over rows of the cosine of x and y; NULL in generations from before it was kept';
COMMENT ON COLUMN codec_errors.min_cosine IS 'smallest cosine of x and y';
DELETE FROM seen WHERE path IN (SELECT concat('runs/', run_id) FROM runs WHERE generation <> 'g0001');
