"""Replayed and full answers of other processes are those of one."""

from functools import partial
from typing import Any

import pytest

from steercache.answers.elsewhere import with_crew
from steercache.answers.model_workers import model_crew
from steercache.cells.model import find_model
from steercache.engines.crew import EngineOptions
from steercache.sweeps.evaluation import evaluate
from tests.answers.test_run_mode import answers_of, bench, first_token, run
from tests.answers.test_run_mode import own as own
from tests.answers.test_run_mode import replayable as replayable
from tests.world import World


@pytest.mark.slow
def test_each_way_of_computing_answers_gives_the_same_bits_elsewhere(own: Any, world: World) -> None:
    session = own("there")
    root = session.cache.root.absolute()
    load = partial(find_model("tiny", root).load, root, dtype="float32")
    vectors = [session.vector("counting")]
    with model_crew(world.loaded, load, root, EngineOptions(workers=2)) as crew:
        for mode, there in (("replay", session), ("full", own("full"))):
            wanted_at = own(f"{mode} here")
            wanted = run(wanted_at, world, first_token(mode=mode))
            asked = with_crew(first_token(mode=mode), crew)
            found = evaluate(there, world.loaded, bench(), vectors=vectors, options=asked)
            assert found.modes["search"].mode == mode
            assert found.n_computed == wanted.n_computed == 54
            assert answers_of(there, found) == answers_of(wanted_at, wanted)
