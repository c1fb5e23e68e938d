"""Every file below a cache root, and its index: open, begin, commit, resume, verify, compact, rebuild, garbage
collection.

Files are the source of truth, and the index is derived from them. This package decides in which order files become
durable. How activations are computed (`runs`, `trace`) and what a query means (`queries`) is decided elsewhere.
"""
