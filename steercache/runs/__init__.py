"""Tracing a manifest through a model into the cache: plan, trace, commit, resume.

A pass over the data fixes the plan (`plan`); each shard is traced batch by batch (`shard`) while a thread writes
(`writing`); the record of a shard commits it (`cache.commit`). File layout belongs to `store`, loading a model to
`models`.
"""
