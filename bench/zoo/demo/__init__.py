"""Training of *demo*: vision tower, connector, and the low-rank update of its text backbone."""
