"""Questions in a model family's own form, scoring of answers, and the comparison of a cell with the baseline."""
