"""Data sets as streams of examples, read lazily in constant memory, as often as needed.

Owns the sources (files, corpora, the hub, contrastive pairs, the shipped concepts), the rule that locates an anchor in
a sentence, and the checks of every row. A bad row is reported, never skipped, and paths in a data file cannot leave its
folder. Tokenization happens in `trace`.
"""

from steercache.data.anchors import find_anchors
from steercache.data.stream import DataSet, open_dataset

__all__ = ["DataSet", "find_anchors", "open_dataset"]
