-- name: feature_top_tokens
-- kind: table
-- summary: Tokens on which an SAE's feature fires most strongly, with the text around them.
-- params:
--   feature: {type: integer, minimum: 0, help: feature of the SAE}
--   sae: {type: sae, default: null, help: "SAE by name, id or prefix; needed where the run is encoded with several"}
--   run: {type: run, default: null, help: "run by name, id or prefix; needed where several runs are encoded"}
--   top: {type: integer, default: 20, minimum: 1, help: how many tokens}
--   window: {type: integer, default: 60, minimum: 0, help: characters of text on either side}
--   first_position: {type: boolean, default: false, help: "first positions too, where activations are massive"}
-- returns:
--   value: activation of the feature
--   token_text: characters that the token covers, or the token as the tokenizer writes it
--   context: the text around the token, which stands in double brackets
--   concept: concept of the sample
--   kind: text, special, image or template
--   is_anchor: whether it is part of an anchor
--   sample_idx: sample of the run
--   position: token within the sample
--   row_idx: row of the arrays
WITH strongest AS MATERIALIZED (
    SELECT
        f.value, t.sample_idx, t.position, t.row_idx, t.kind, t.is_anchor, t.piece, t.char_start, t.char_end, s.text,
        s.concept
    FROM feature_acts f
    JOIN tokens t ON t.run_id = f.run_id AND t.row_idx = f.row_idx
    JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
    WHERE f.sae_id = $sae
        AND f.run_id = $run
        AND t.run_id = $run
        AND f.feature = $feature
        AND ($first_position OR t.position <> 0)
    ORDER BY f.value DESC, t.row_idx, t.sample_idx
    LIMIT $top
)
SELECT
    value,
    CASE WHEN char_end > char_start AND char_start >= 0 THEN text[char_start + 1:char_end] ELSE piece END AS token_text,
    CASE
        WHEN char_end > char_start AND char_start >= 0
        THEN concat(
            text[greatest(char_start - $window, 0) + 1:char_start],
            '[[', text[char_start + 1:char_end], ']]',
            text[char_end + 1:char_end + $window]
        )
    END AS context,
    concept,
    kind,
    is_anchor,
    sample_idx,
    position,
    row_idx
FROM strongest
ORDER BY value DESC, row_idx, sample_idx
