"""Vectors, activations and results in the formats of other tools."""
