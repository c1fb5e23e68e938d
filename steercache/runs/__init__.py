"""Run a trace manifest through a model into the cache: plan, trace, commit, resume.

The flow of a build: a pass over the data fixes the shape (`plan`), each shard is traced batch by batch (`shard`) while a
thread writes (`writing`), and a shard's record commits it (`cache.commit`). This room refuses to know how a file is laid out
or how a model is loaded.
"""
