"""The command line: one file per noun; parse, call one library function, print. Imports no torch, zarr or duckdb."""
