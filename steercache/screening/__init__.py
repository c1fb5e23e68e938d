"""`steercache screen`: gradients recorded once as a run of the cache; every vector at every layer and strength predicted."""
