-- name: image_rows
-- kind: selection
-- summary: Every kept row of an image token.
-- params:
--   run: {type: run, default: newest_multimodal, help: "run by name, id or prefix; the newest complete multimodal run"}
--   dataset: {type: text, default: null, help: only samples of this data set}
--   split: {type: text, default: null, help: only samples of this split}
-- returns:
--   run_id: run
--   row_idx: row of the arrays
SELECT t.run_id, t.row_idx
FROM tokens t
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
WHERE t.run_id = $run
    AND s.run_id = $run
    AND t.kind = 'image'
    AND ($dataset IS NULL OR s.dataset = $dataset)
    AND ($split IS NULL OR s.split = $split)
    AND t.row_idx IS NOT NULL
