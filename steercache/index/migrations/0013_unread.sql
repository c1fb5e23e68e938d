-- Answers that were given and read as no option stand beside the right ones.

CREATE OR REPLACE VIEW trials AS
SELECT
    sweep_id,
    cell_id,
    split,
    count(*)::INTEGER AS n,
    (count(*) FILTER (status = 'failed'))::INTEGER AS n_failed,
    (count(*) FILTER (correct))::INTEGER AS n_correct,
    (count(*) FILTER (status = 'ok' AND parsed IS NULL AND NOT correct))::INTEGER AS n_unread,
    avg(margin) AS mean_margin,
    avg(score) AS mean_score
FROM answers
GROUP BY ALL;
COMMENT ON VIEW trials IS 'Answers counted per sweep, cell and split.';
COMMENT ON COLUMN trials.sweep_id IS 'sweep';
COMMENT ON COLUMN trials.cell_id IS 'setting';
COMMENT ON COLUMN trials.split IS 'split';
COMMENT ON COLUMN trials.n IS 'samples, failed ones included';
COMMENT ON COLUMN trials.n_failed IS 'samples that failed';
COMMENT ON COLUMN trials.n_correct IS 'samples answered right';
COMMENT ON COLUMN trials.n_unread IS 'answers that were read as no option, or as several; they count as wrong';
COMMENT ON COLUMN trials.mean_margin IS 'mean margin over the samples that have one';
COMMENT ON COLUMN trials.mean_score IS 'mean of the task''s own number';
