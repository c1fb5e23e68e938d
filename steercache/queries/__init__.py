"""SQL over the cache: the library of named queries, running them in bounds, and turning picked rows into a `Selection`.

Owns the header of `.sql` files, typed bindings, the choice of a default run, and `steercache.open`. Refuses to open DuckDB by
itself (`index` does) and to look at values of activations (`fit` does).
"""
