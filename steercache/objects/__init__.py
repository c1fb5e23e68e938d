"""Object stores: addresses, conditional writes, range requests, listings of places, and a local cache of blocks."""
