"""Ratios measured side by side in one run: us, a peer, a physical limit. `make bench` runs all and writes them as JSON."""
