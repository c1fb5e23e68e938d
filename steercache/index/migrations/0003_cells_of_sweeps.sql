-- Which sweep asked for a setting, answered yet or not. The rows come anew from the sweeps' files.

DELETE FROM cells;
DELETE FROM seen;
ALTER TABLE cells ADD COLUMN sweep_id VARCHAR;
COMMENT ON COLUMN cells.sweep_id IS 'sweep that asked for it';
COMMENT ON TABLE cells IS 'One row per sweep and setting. Sweeps share the cell_id of equal settings: join on (sweep_id, cell_id).';
