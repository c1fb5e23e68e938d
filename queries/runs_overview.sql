-- name: runs_overview
-- kind: table
-- summary: Every run with its model, its size and how far it is.
-- returns:
--   name: name of the run
--   run_id: run
--   model_id: model
--   modality: text or multimodal
--   dtype: dtype of the stored values
--   complete: whether every planned shard is there
--   n_layers: decoder blocks of the model
--   sites: sites and how many of their layers were kept
--   n_samples: samples committed
--   n_tokens: their tokens
--   n_rows: rows kept
--   gib: size of its files
--   created_at: when it began, UTC
SELECT
    r.name,
    r.run_id,
    r.model_id,
    r.modality,
    r.dtype,
    r.complete,
    r.n_layers,
    k.sites,
    coalesce(s.n_samples, 0) AS n_samples,
    coalesce(s.n_tokens, 0) AS n_tokens,
    coalesce(h.n_rows, 0) AS n_rows,
    round(coalesce(h.n_bytes, 0) / 1024 ** 3, 3) AS gib,
    r.created_at
FROM runs r
LEFT JOIN (
    SELECT run_id, string_agg(site || ' x ' || n, ', ' ORDER BY site) AS sites
    FROM (SELECT run_id, site, count(*) AS n FROM sites GROUP BY ALL)
    GROUP BY run_id
) k ON k.run_id = r.run_id
LEFT JOIN (SELECT run_id, count(*) AS n_samples, sum(n_tokens)::BIGINT AS n_tokens FROM samples GROUP BY run_id) s
    ON s.run_id = r.run_id
LEFT JOIN (SELECT run_id, sum(n_rows)::BIGINT AS n_rows, sum(n_bytes)::BIGINT AS n_bytes FROM shards GROUP BY run_id) h
    ON h.run_id = r.run_id
ORDER BY r.created_at DESC, r.run_id
