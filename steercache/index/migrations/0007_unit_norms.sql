-- What strengths are counted in where that was measured on the steered rows (alpha_unit target_norm).

ALTER TABLE cells ADD COLUMN unit_norm DOUBLE;
COMMENT ON COLUMN cells.unit_norm IS 'median norm of the steered rows, position 0 left out, that alpha counts in; NULL for other units';
COMMENT ON COLUMN cells.alpha_unit IS 'raw; resid_norm or target_norm: multiples of the median norm of the rows the vector was fitted on, or that are steered';
COMMENT ON COLUMN cells.cell_id IS 'hash of model, vector, layer, alpha, its unit, target, prompt and decoding';
