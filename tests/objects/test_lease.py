"""One coordinator per run in an object store: leases that are held, given back, run out and lost."""

import time
from dataclasses import replace

import pytest

from steercache.core.errors import BusyError, DamagedError, UnreachableError
from steercache.objects import lease as leases
from steercache.objects.lease import Fence, LeaseNote, hold_lease
from tests.objects.recorded import InMemory, Recorded

PATH = "runs/1/LEASE"


def note_in(store: InMemory | Recorded) -> LeaseNote:
    found = store.get(PATH, most=10**6)
    assert found is not None
    return leases._NOTE.validate_json(bytes(found.data))


def elsewhere(store: InMemory, *, until: float, token: int = 7) -> None:
    """Put the lease of a process on another machine."""
    note = LeaseNote(token=token, holder="other", until=until, machine="another", pid=1, about="process 1 on another")
    store.put(PATH, leases._bytes(note))


def test_a_second_coordinator_is_refused_and_told_who_holds_it_and_comes_in_when_it_is_given_back() -> None:
    store = InMemory()
    with hold_lease(store, PATH, what="the run 'small'") as first:
        first.check()
        with pytest.raises(BusyError, match=r"the run 'small' is held by process \d+ on .*, which holds it until"):
            hold_lease(store, PATH, what="the run 'small'").__enter__()
    with hold_lease(store, PATH, what="the run") as second:
        assert second.fence.token == first.fence.token + 1
        with pytest.raises(BusyError, match="the lease of this run was taken by process"):
            first.check()
    with pytest.raises(BusyError, match="was given back"):
        second.fence.check(store)


def test_the_lease_of_another_machine_is_taken_when_it_has_run_out_and_its_holder_commits_nothing_more() -> None:
    store = InMemory()
    elsewhere(store, until=time.time() + 60)
    theirs = Fence(path=PATH, holder="other", token=7)
    theirs.check(store)
    with pytest.raises(BusyError, match="process 1 on another"):
        hold_lease(store, PATH, what="the run").__enter__()
    elsewhere(store, until=time.time() - 1)
    theirs.check(store)  # late, and nobody has taken it: it may go on
    with hold_lease(store, PATH, what="the run") as ours:
        assert ours.fence.token == 8
        with pytest.raises(BusyError, match="was taken by process"):
            theirs.check(store)


def test_of_two_that_find_it_free_one_gets_it() -> None:
    inner = InMemory()
    elsewhere(inner, until=0.0)
    store = Recorded(inner)

    def another_is_quicker(path: str) -> None:
        store.before = lambda path: None
        elsewhere(inner, until=time.time() + 60, token=8)

    store.before = another_is_quicker
    with pytest.raises(BusyError, match="process 1 on another"):
        hold_lease(store, PATH, what="the run").__enter__()


def test_it_is_renewed_as_long_as_it_is_held_also_by_a_store_that_does_not_answer_for_a_while() -> None:
    store = Recorded(InMemory())
    with hold_lease(store, PATH, what="the run", lasts_s=0.2) as lease:
        first = note_in(store).until

        def silent(path: str) -> None:
            raise UnreachableError("the store did not answer")

        store.before = silent
        time.sleep(0.12)
        store.before = lambda path: None
        end = time.monotonic() + 5
        while note_in(store).until == first and time.monotonic() < end:
            time.sleep(0.01)
        assert note_in(store).until > first
        lease.check()


def test_a_holder_that_finds_another_one_in_its_place_knows_at_its_next_renewal() -> None:
    store = InMemory()
    with hold_lease(store, PATH, what="the run") as lease:
        elsewhere(store, until=time.time() + 60)
        lease.renew()
        with pytest.raises(BusyError, match="process 1 on another"):
            lease.check()
    assert note_in(store).holder == "other", "what is no longer ours is not given back"


def test_a_process_of_this_machine_that_is_gone_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = InMemory()
    with hold_lease(store, PATH, what="the run"):
        mine = note_in(store)
    gone = replace(mine, holder="gone", until=time.time() + 60)
    for pid, alive in (
        (mine.pid, False),
        (1, True),
        (2**22 + 1, False),
    ):  # no thread of ours; the first process; no process
        store.put(PATH, leases._bytes(replace(gone, pid=pid)))
        assert leases._is_held(note_in(store)) is alive
    store.put(PATH, b"{}")
    with pytest.raises(DamagedError, match="not a lease"):
        hold_lease(store, PATH, what="the run").__enter__()
