"""Hidden states on disk: a Zarr v3 group per generation, written at file speed and read through memory maps.

Owns the layout of the files, checksums, codecs, and every durable file operation. Refuses to know what the rows mean
(tokens, samples, labels), which runs exist, or when a shard counts as committed: that is `cache/`.
"""
