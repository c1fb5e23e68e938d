"""The DuckDB index: tables and migrations, ingestion of shards, access from several processes, and limits on queries.

Every row can be made again from the files of the cache. Activations stay in the store. duckdb is imported in this
package only.
"""
