"""SQL over the cache: the library of named queries, running queries within limits, and selections of rows.

Owns the headers of `.sql` files, typed bindings and the choice of a default run. DuckDB itself is opened by `index`.
"""
