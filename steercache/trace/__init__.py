"""Inputs as tokens, tokens as batches, batches through the model: nnsight capture.

This room owns token kinds and offsets, which tokens are anchors and controls, how samples are packed and padded, and what a
forward pass hands out at every site. It refuses files: what it captures lies in memory until somebody else writes it.
"""
