"""Pictures and pages from result tables.

The plotting library is met in this room and nowhere else. It refuses to compute a result: what it draws, another room measured.
"""
