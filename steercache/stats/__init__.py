"""What a difference shows: paired tests clustered by picture, power, whole families, races, and the choice of a cell.

Arrays in, numbers out; nothing here knows a model, a cache or a data set.
"""
