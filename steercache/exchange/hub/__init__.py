"""Runs, vectors, sweeps and features of a cache on the Hugging Face hub or in a folder: push and pull."""
