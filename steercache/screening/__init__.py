"""Gradient screening: gradients of the answer margin, recorded once, predict every vector at every layer and strength."""
