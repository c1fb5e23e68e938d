import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from steercache.sae.row_order import ShuffledRows


@given(n=st.integers(1, 300), batch=st.integers(1, 64), epochs=st.integers(1, 3), seed=st.integers(0, 5))
def test_every_epoch_has_each_row_once(n: int, batch: int, epochs: int, seed: int) -> None:
    rows = np.arange(n, dtype=np.int64) * 3 + 7  # gaps, as left by positions that are not trained on
    stream = ShuffledRows(rows, seed=seed, batch_size=batch)
    for epoch in range(epochs):
        assert sorted(stream.indices(epoch * n, (epoch + 1) * n)) == rows.tolist()


@given(n=st.integers(2, 200), batch=st.integers(1, 16), first=st.integers(0, 20), seed=st.integers(0, 5))
def test_batches_from_any_step_on_are_those_of_the_whole_stream(n: int, batch: int, first: int, seed: int) -> None:
    rows = np.arange(n, dtype=np.int64)
    values = np.random.default_rng(1).normal(size=(n, 3)).astype(np.float32)

    def gather(wanted: np.ndarray) -> np.ndarray:
        return values[wanted]

    stop = 25
    whole = list(ShuffledRows(rows, seed=seed, batch_size=batch).batches(gather, first=0, stop=stop))
    resumed = list(ShuffledRows(rows, seed=seed, batch_size=batch).batches(gather, first=first, stop=stop))
    assert len(whole) == stop
    for one, other in zip(whole[first:], resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    indices = ShuffledRows(rows, seed=seed, batch_size=batch).indices(0, stop * batch)
    np.testing.assert_array_equal(np.concatenate(whole), values[indices])


def test_the_order_has_nothing_of_the_order_in_the_run() -> None:
    n = 20_000
    order = ShuffledRows(np.arange(n, dtype=np.int64), seed=0, batch_size=512).indices(0, n)
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / np.sqrt(n)
    near = (
        np.abs(np.diff(order)) < n / 100
    )  # neighbours in the stream that are near each other in the run: 2 % by chance
    assert 0.015 < near.mean() < 0.025
    means = order[: n // 512 * 512].reshape(-1, 512).mean(1)  # a batch is a sample of the whole run
    assert np.abs(means - n / 2).max() < 5 * n / np.sqrt(12 * 512)


def test_epochs_and_seeds_differ() -> None:
    rows = np.arange(1000, dtype=np.int64)
    stream = ShuffledRows(rows, seed=0, batch_size=10)
    first, second = stream.indices(0, 1000), stream.indices(1000, 2000)
    other = ShuffledRows(rows, seed=1, batch_size=10).indices(0, 1000)
    assert (first == second).mean() < 0.02
    assert (first == other).mean() < 0.02


def test_rows_are_read_in_the_order_of_the_disk_and_in_blocks() -> None:
    asked: list[np.ndarray] = []

    def gather(wanted: np.ndarray) -> np.ndarray:
        asked.append(wanted)
        return wanted[:, None].astype(np.float32)

    rows = np.arange(100_000, dtype=np.int64)
    batches = list(ShuffledRows(rows, seed=0, batch_size=1024).batches(gather, first=0, stop=97))
    assert len(batches) == 97
    assert len(asked) == 4  # blocks of 32,768 rows: memory does not grow with the run
    assert all((np.diff(part) > 0).all() for part in asked)
