"""Activations that other engines captured, as runs of the cache; and rows of the cache in files of other tools."""
