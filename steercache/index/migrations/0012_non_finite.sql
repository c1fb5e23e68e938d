-- How many stored rows are not finite. Records from before say nothing, and read as NULL.

ALTER TABLE shards ADD COLUMN n_non_finite BIGINT;
COMMENT ON COLUMN shards.n_non_finite IS 'stored rows with an infinity or NaN, summed over sites and layers (float16 overflows at 65504); NULL where nobody counted';
