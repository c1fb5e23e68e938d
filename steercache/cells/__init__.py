"""What a sweep tries: arms (vectors, controls, wordings) and their cells (layer, strength, target), and how a model is looked up."""
