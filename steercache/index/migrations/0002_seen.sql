-- Which state of the files the index was last made equal to, so that a reader can tell in a few stat calls.

CREATE TABLE seen (
    path VARCHAR NOT NULL,
    mtime_ns BIGINT NOT NULL
);

COMMENT ON TABLE seen IS 'Files and folders of the root as they were when the index was last brought up to date.';
COMMENT ON COLUMN seen.path IS 'relative to the root';
COMMENT ON COLUMN seen.mtime_ns IS 'time of its last change, nanoseconds since 1970';
