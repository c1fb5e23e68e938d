"""Where work is done: in processes of this machine, or on a Ray cluster.

Work is a list of tasks (a shard to trace, questions to answer) and workers that are started once, each with a model of its own,
and do one task after another. Owns how workers are started, replaced when they die, and stopped; knows nothing of what they do.
"""
