-- Which cell each arm of a sweep took, as it was decided when the sweep ran: from choices.json of a sweep.

CREATE TABLE choices (
    sweep_id VARCHAR NOT NULL,
    place INTEGER NOT NULL,
    arm VARCHAR NOT NULL,
    role VARCHAR NOT NULL,
    vector_id VARCHAR,
    control_of VARCHAR,
    control_kind VARCHAR,
    method VARCHAR,
    concept VARCHAR,
    lineage VARCHAR,
    cell_id VARCHAR NOT NULL,
    rule VARCHAR NOT NULL,
    n_cells INTEGER NOT NULL,
    details JSON
);
COMMENT ON TABLE choices IS 'One row per sweep and arm: the cell that it took on the search split and was held to on the test split.';
COMMENT ON COLUMN choices.sweep_id IS 'sweep';
COMMENT ON COLUMN choices.place IS 'place of the arm in the sweep, from 0';
COMMENT ON COLUMN choices.arm IS 'name of the arm: of a vector, or baseline, or prompting';
COMMENT ON COLUMN choices.role IS 'baseline, prompting, vector or control';
COMMENT ON COLUMN choices.vector_id IS 'vector of the arm; NULL for the baseline and for prompting';
COMMENT ON COLUMN choices.control_of IS 'of a control: vector_id of the vector that it is a control of';
COMMENT ON COLUMN choices.control_kind IS 'of a control: how it was made';
COMMENT ON COLUMN choices.method IS 'how the vector was fitted';
COMMENT ON COLUMN choices.concept IS 'concept of the vector';
COMMENT ON COLUMN choices.lineage IS 'run that the vector was fitted on: own, backbone, foreign or unknown';
COMMENT ON COLUMN choices.cell_id IS 'cell that was chosen; join cells on (sweep_id, cell_id)';
COMMENT ON COLUMN choices.rule IS 'single (one cell, no choice), exhaustive, race, screening, or screening and race';
COMMENT ON COLUMN choices.n_cells IS 'cells that it was chosen among';
COMMENT ON COLUMN choices.details IS 'damage of the cell, the race, the sweep of the null directions, and sweeps whose p values are adjusted together, where there are any';
