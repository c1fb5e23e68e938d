"""The command line: parse options, call the library, print. Importing it loads neither torch nor zarr nor duckdb."""
