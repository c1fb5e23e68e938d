"""Statistics as pure functions: paired tests clustered by picture, power, families of tests, races, the choice of a
cell.

Arrays in, numbers out; no model, cache or data set is used here.
"""
