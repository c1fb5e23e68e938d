"""Errors, ids and value types that several packages share.

Uses the standard library and NumPy only. Nothing here reads a file, opens a connection or depends on another package.
"""
