"""Answers of a model to questions under cells: batches, execution modes (branch, replay, full), their costs and
storage.

Answers that the cache already has are read, not computed. Which cells exist is decided in `cells` and `sweeps`.
"""
