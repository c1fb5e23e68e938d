"""What is tried: vectors, controls and wordings with the layers, strengths and targets they may choose among; sweeps."""
