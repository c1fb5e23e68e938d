"""Hidden states on disk: one Zarr v3 group per generation, written at file speed and read through memory maps.

Owns file layout, checksums, codecs and every durable file operation. What the rows mean, which runs exist and when a
shard counts as committed is decided in `cache`.
"""
