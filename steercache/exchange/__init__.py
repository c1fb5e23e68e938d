"""Vectors, activations and results in the formats of other tools, out and in.

What arrives is read without running its code. What a format cannot say is refused, not guessed.
"""
