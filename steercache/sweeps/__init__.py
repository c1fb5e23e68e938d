"""Sweeps: a set of cells over a benchmark, run exactly or raced, chosen on the search split, compared on the test split."""
