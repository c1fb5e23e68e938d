"""What a sweep tries: arms (vectors, controls, wordings) with their cells (layer, strength, target), and model lookup."""
