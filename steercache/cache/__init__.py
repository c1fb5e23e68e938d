"""One handle over store and index: open, begin, commit, resume, verify, compact, rebuild, gc.

This room owns every path below a cache root and the order in which files become durable. The files are the truth; the
index is derived from them. It refuses to know how activations are computed or what a query means.
"""
