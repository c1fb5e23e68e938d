-- name: drift_rows
-- kind: table
-- summary: Rows of two runs for the same token of the same input, such as a backbone's and those of the MLLM grown from it.
-- params:
--   run: {type: run, help: "the first run (the backbone's) by name, id or prefix"}
--   other: {type: run, help: "the second one (the MLLM's)"}
--   text_only: {type: boolean, default: false, help: "compare inputs by their text tokens alone; finds the words of a prompt beside a picture, or in a chat template"}
-- returns:
--   row_idx: row of the first run
--   other_row_idx: row of the second
--   sample_idx: sample in the first run
--   other_sample_idx: sample in the second
--   position: place in the first run's sample
--   other_position: place in the second's
--   token_id: the token, the same in both
--   piece: the token as the tokenizer writes it
--   role: first (position 0, the attention sink), special, template, anchor or text
WITH numbered AS (
    SELECT run_id, sample_idx, position, row_idx, token_id, piece, kind, is_anchor,
        row_number() OVER (PARTITION BY run_id, sample_idx ORDER BY position) AS place
    FROM tokens
    WHERE run_id IN ($run, $other) AND (NOT $text_only OR kind = 'text')
), inputs AS (
    SELECT run_id, sample_idx, list(token_id ORDER BY place) AS ids FROM numbered GROUP BY run_id, sample_idx
), firsts AS (
    SELECT ids, min(sample_idx) AS sample_idx FROM inputs WHERE run_id = $run GROUP BY ids
), paired AS (
    SELECT f.sample_idx, i.sample_idx AS other_sample_idx
    FROM firsts f
    JOIN inputs i ON i.ids = f.ids
    WHERE i.run_id = $other
)
SELECT
    a.row_idx,
    b.row_idx AS other_row_idx,
    a.sample_idx,
    b.sample_idx AS other_sample_idx,
    a.position,
    b.position AS other_position,
    a.token_id,
    a.piece,
    CASE
        WHEN a.position = 0 THEN 'first'
        WHEN a.kind IN ('special', 'template') THEN a.kind::VARCHAR
        WHEN a.is_anchor THEN 'anchor'
        ELSE 'text'
    END AS role
FROM paired p
JOIN numbered a ON a.run_id = $run AND a.sample_idx = p.sample_idx
JOIN numbered b ON b.run_id = $other AND b.sample_idx = p.other_sample_idx AND b.place = a.place
WHERE a.row_idx IS NOT NULL AND b.row_idx IS NOT NULL
ORDER BY p.other_sample_idx, a.place
