"""How answers are scored, how settings are compared, and what may be claimed from it.

Owns: reading a model's words as an answer, paired statistics clustered by picture, control directions, racing of cells,
the choice of a cell and its selection bias, and the ledger of looks at a test split. Refuses: running a model (steer/) and
reading data sets (data/); what comes in are words, arrays and callables.
"""
