"""From inputs to captured activations: tokens, batches, and forward passes captured with nnsight.

Owns kinds and offsets of tokens, anchors and controls, packing and padding of batches, and what is captured at each
site. Captured values stay in memory; `runs` has them written.
"""
