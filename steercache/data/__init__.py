"""A data set to a stream of examples: read lazily, as often as wanted, in constant memory.

This room owns the sources (files, corpora, the hub, contrastive pairs, the shipped concepts), the rule by which an anchor is
found in a sentence, and the check of every row. It refuses to tokenise (trace/), to download by itself, to skip a bad row in
silence, and to follow a path in a data file out of that file's folder.
"""

from steercache.data.anchors import find_anchors
from steercache.data.stream import DataSet, open_dataset

__all__ = ["DataSet", "find_anchors", "open_dataset"]
