"""How answers are scored, how settings are compared and chosen, and what may be claimed from it.

Folders, each importing only those before it: statistics, tasks, settings, runner, evaluation, screening, grid, paper.
Refuses: running a model its own way (steer/ does) and reading data sets (data/).
"""
