"""The DuckDB file that people write SQL against: its tables and migrations, taking shards in, the gate, the guard.

Owns `index.duckdb` and the schemas of the Parquet files that it is made from. Every row of it can be made again from files,
so nothing is ever stored here alone. Refuses activations (they live in the store) and any knowledge of models.
The only room that imports duckdb.
"""
