"""Limits of the process that a query runs in. Imports nothing heavy."""

from steercache.index.ceiling import limit_own_files, limit_own_memory

__all__ = ["limit_own_files", "limit_own_memory"]
