"""Errors, ids and the value types that more than one room speaks of.

This room uses the standard library and numpy only, and imports no other room. It refuses anything that reads a file,
opens a connection or knows a library's object.
"""
