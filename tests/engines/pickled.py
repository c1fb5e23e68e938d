"""An engine without processes: what workers get and give is pickled, as on the way to them and back."""

import pickle
from typing import Any

from steercache.engines.crew import EngineOptions, Work


def work_in_process(work: Work[Any, Any], options: EngineOptions) -> None:
    """Do all tasks with `options.workers` workers of this process, in turn."""
    starts = [pickle.loads(pickle.dumps(work.start)) for _ in range(options.workers)]
    workers = [start() for start in starts]
    for number, task in enumerate(work.tasks):
        worker = workers[number % len(workers)]
        if number < len(workers):
            work.on_worker(pickle.loads(pickle.dumps(worker.about)))
        result = worker.run(pickle.loads(pickle.dumps(task)))
        work.on_done(task, pickle.loads(pickle.dumps(result)))
