"""Sparse autoencoders: loading, encoding and what follows from features. sae-lens is imported here only, inside functions."""
