"""The writing thread: the model computes on while a batch is written, in order, with no more batches waiting than allowed."""

import threading

import pytest

from steercache.runs.writing import WAITING_JOBS, WritingThread

PATIENCE_S = 60.0  # a test that waits so long has failed


def test_the_model_computes_on_while_a_batch_is_written_and_jobs_keep_their_order() -> None:
    begun, go_on = threading.Event(), threading.Event()
    written: list[int] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        written.append(0)

    with WritingThread() as writing:
        writing.put(slow)
        assert begun.wait(PATIENCE_S)
        writing.put(lambda: written.append(1))  # handed in while the first is under way: nobody waited for it
        assert written == []
        go_on.set()
        writing.drain()
        assert written == [0, 1]
        writing.put(lambda: written.append(2))
    assert written == [0, 1, 2], "leaving the block waits for what was handed in"


def test_no_more_batches_wait_in_memory_than_allowed() -> None:
    begun, go_on, handed_in = threading.Event(), threading.Event(), threading.Semaphore(0)

    def slow() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    with WritingThread() as writing:
        writing.put(slow)
        assert begun.wait(PATIENCE_S)

        def hand_in() -> None:
            for _ in range(WAITING_JOBS + 1):
                writing.put(lambda: None)
                handed_in.release()

        model = threading.Thread(target=hand_in)
        model.start()
        assert all(handed_in.acquire(timeout=PATIENCE_S) for _ in range(WAITING_JOBS))
        assert not handed_in.acquire(timeout=0.2), "the next one waits until something is written"
        go_on.set()
        model.join()


def fail() -> None:
    raise OSError("the disk is full")


def test_an_error_ends_the_work_and_comes_out_where_the_next_job_is_handed_in() -> None:
    written: list[int] = []
    go_on = threading.Event()

    def fail_later() -> None:
        assert go_on.wait(PATIENCE_S)
        fail()

    writing = WritingThread()
    writing.__enter__()
    writing.put(fail_later)
    writing.put(lambda: written.append(1))
    go_on.set()
    writing.drain()
    with pytest.raises(OSError, match="full") as raised:
        writing.put(lambda: written.append(2))
    writing.__exit__(OSError, raised.value, None)  # as leaving a `with` block by that error does
    assert written == []


def test_an_error_of_the_last_job_comes_out_at_the_end() -> None:
    with pytest.raises(OSError, match="full"), WritingThread() as writing:
        writing.put(fail)
