"""`scenes`: an endless, seeded set of drawn pictures with questions, in the schema of CV-Bench.

Owns: what a picture holds, how it is drawn, what is asked about it, and how a set is written as Parquet. Nothing is downloaded
and nothing has a licence: every pixel is a polygon drawn here. Example number `idx` of a seed is always the same and can be
made without the ones before it. `shifted=True` draws the same questions with other outlines, palettes and backgrounds: the
out-of-distribution set `scenes-shifted`.
"""

from steercache.data.scenes.difficulty import EASY, Difficulty
from steercache.data.scenes.draw import draw_scene
from steercache.data.scenes.examples import (
    SET_NAMES,
    SceneExample,
    iter_examples,
    make_example,
    set_name,
    to_row,
)
from steercache.data.scenes.layout import Scene, SceneItem, make_crowd, make_pairs
from steercache.data.scenes.palette import COLOURS, SHAPES, plural
from steercache.data.scenes.parquet import write_parquet
from steercache.data.scenes.questions import (
    INSTRUCTIONS,
    TASKS,
    SceneQuestion,
    Task,
    ask_attribute,
    ask_count,
    ask_entity,
    ask_relation,
)

__all__ = [
    "COLOURS",
    "EASY",
    "INSTRUCTIONS",
    "SET_NAMES",
    "SHAPES",
    "TASKS",
    "Difficulty",
    "Scene",
    "SceneExample",
    "SceneItem",
    "SceneQuestion",
    "Task",
    "ask_attribute",
    "ask_count",
    "ask_entity",
    "ask_relation",
    "draw_scene",
    "iter_examples",
    "make_crowd",
    "make_example",
    "make_pairs",
    "plural",
    "set_name",
    "to_row",
    "write_parquet",
]
