"""Steering vectors in the files of other tools: one module per format, one table of formats."""
