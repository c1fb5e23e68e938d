"""Rows before the question, kept once per picture and shard: what points where, that the values agree, and who is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.verify import verify_run
from steercache.core.errors import QueryError, UsageError
from steercache.core.examples import EncodedSample
from steercache.engines.crew import EngineOptions
from steercache.runs.job import prepare_trace
from steercache.runs.plan import Plan, plan_run
from steercache.runs.sharing import SharedPacking
from tests.cache.contents import files_of, tables_of
from tests.models.tiny_images import MAKERS
from tests.runs.pictures import QUESTIONS, write_pictures_trace
from tests.tracing import write_small_trace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CAUSAL = [family for family in MAKERS if family != "paligemma"]
Tokens = dict[tuple[int, int], tuple[int, int]]  # (sample, position) -> (token id, row)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tmp_path_factory.mktemp(family) for family in MAKERS}


def tokens_of(cache: CacheFolder) -> Tokens:
    with cache.connection() as connection:
        rows = connection.execute("select sample_idx, position, token_id, row_idx from tokens").fetchall()
    return {(sample, position): (token, row) for sample, position, token, row in rows}


def shards_of(cache: CacheFolder) -> list[range]:
    """Samples of each shard."""
    document = cache.run_document(cache.resolve_run("pictures"))
    return [range(s.first_sample, s.first_sample + s.n_samples) for s in document.shards]


def expected_owners(tokens: Tokens, shards: list[range]) -> dict[tuple[int, int], tuple[int, int]]:
    """By hand: a token's row is that of the first sample of its shard with the same picture, while all tokens are the same."""
    length = {sample: 1 + max(p for s, p in tokens if s == sample) for sample, _ in tokens}
    owners = {}
    for shard in shards:
        first: dict[int, int] = {}
        for sample in shard:
            shown = QUESTIONS[sample][1]
            owner = sample if shown is None else first.setdefault(shown, sample)
            same = True
            for position in range(length[sample]):
                same &= position < length[owner] and tokens[sample, position][0] == tokens[owner, position][0]
                owners[sample, position] = (owner if same else sample, position)
    return owners


@pytest.mark.parametrize(
    "family", [f if f in ("idefics3", "qwen2_5_vl") else pytest.param(f, marks=pytest.mark.slow) for f in CAUSAL]
)
def test_rows_before_the_first_token_that_differs_are_kept_once_and_equal_the_rows_of_every_question(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    alone = write_pictures_trace(folders[family], family).cache(tmp_path / "alone")
    cache = write_pictures_trace(folders[family], family, share_prefix=True).cache(tmp_path / "shared")
    tokens, whole = tokens_of(cache), tokens_of(alone)
    owners = expected_owners(tokens, shards_of(cache))
    for place, owner in owners.items():
        assert tokens[place][1] == tokens[owner][1], place
    kept = {place for place, owner in owners.items() if place == owner}
    rows = sorted(tokens[place][1] for place in kept)
    assert len(kept) < len(owners)
    assert rows == list(range(len(kept))), "every row is claimed, and by one owner"
    source, plain = (c.source(c.resolve_run("pictures")) for c in (cache, alone))
    assert source.run_id != plain.run_id
    places = sorted(tokens)
    for layer in range(3):
        got = source.gather("resid_post", layer, np.array([tokens[p][1] for p in places]))
        want = plain.gather("resid_post", layer, np.array([whole[p][1] for p in places]))
        mine = np.array([p in kept for p in places])
        assert np.array_equal(got[mine], want[mine]), "bit for bit where the row is its own: the same batch made it"
        np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-4)
    assert not source.document.replayable
    assert plain.document.replayable


@pytest.mark.parametrize(
    "rows",
    [
        {"policy": "image"},
        {"policy": "last"},
        {"policy": "every", "every": 2},
        {"policy": "roles", "roles": ["text", "last"]},
    ],
)
def test_every_policy_keeps_what_it_kept_and_shares_what_the_owner_kept(
    rows: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    alone = write_pictures_trace(folders["llava"], "llava", rows=rows).cache(tmp_path / "alone")
    cache = write_pictures_trace(folders["llava"], "llava", rows=rows, share_prefix=True).cache(tmp_path / "shared")
    tokens, whole = tokens_of(cache), tokens_of(alone)
    assert {p for p, (_, row) in tokens.items() if row is None} == {p for p, (_, row) in whole.items() if row is None}
    owners = expected_owners(tokens, shards_of(cache))
    for place, (_, row) in tokens.items():
        if row is not None and tokens[owners[place]][1] is not None:
            assert row == tokens[owners[place]][1]
    source, plain = (c.source(c.resolve_run("pictures")) for c in (cache, alone))
    places = [p for p, (_, row) in sorted(whole.items()) if row is not None]
    np.testing.assert_allclose(
        source.gather("resid_post", 2, np.array([tokens[p][1] for p in places])),
        plain.gather("resid_post", 2, np.array([whole[p][1] for p in places])),
        atol=2e-5,
        rtol=1e-4,
    )


@pytest.mark.slow
def test_a_shared_run_is_the_same_resumed_by_workers_and_rebuilt_and_is_found_sound(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    trace = write_pictures_trace(folders["idefics3"], "idefics3", share_prefix=True, rows_per_shard=96)
    cache = trace.cache(tmp_path / "root")
    run_id = cache.resolve_run("pictures")
    document = cache.run_document(run_id)
    assert len(document.shards) > 2
    assert document.n_rows < sum(s.n_tokens for s in document.shards)
    before = files_of(cache.root), tables_of(cache.root)
    trace.build(tmp_path / "workers", engine=EngineOptions(workers=2))
    assert (files_of(tmp_path / "workers"), tables_of(tmp_path / "workers")) == before
    cache.run_paths(run_id).shard("g0001", 1).unlink()
    assert trace.build(cache.root).n_shards_built == 1
    assert (files_of(cache.root), tables_of(cache.root)) == before
    (cache.root / "index.duckdb").unlink()
    assert tables_of(cache.root) == before[1]
    assert not [f for step in verify_run(open_cache(cache.root), run_id) for f in step.findings]
    session = steercache.open(cache.root)
    for name in ("check_shards_rows", "check_duplicate_rows", "check_rows_without_tokens"):
        assert session.query(name).fetchall() == [], name
    owners = expected_owners(tokens_of(cache), shards_of(cache))
    assert document.n_rows == sum(place == owner for place, owner in owners.items())


def test_a_row_that_questions_share_is_picked_once_and_belongs_to_the_first_of_them(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    cache = write_pictures_trace(folders["llava"], "llava", share_prefix=True).cache(tmp_path / "root")
    session = steercache.open(cache.root)
    tokens = tokens_of(cache)
    picked = session.select("image_rows")
    assert len(picked) == 16 * len({q[1] for q in QUESTIONS if q[1] is not None})
    first = {QUESTIONS[s][1]: s for s in reversed(range(len(QUESTIONS)))}
    assert all(QUESTIONS[s][1] is not None and first[QUESTIONS[s][1]] == s for s in picked.sample_idx.tolist())
    for row, sample, position, token in zip(
        picked.rows.tolist(),
        picked.sample_idx.tolist(),
        picked.position.tolist(),
        picked.token_id.tolist(),
        strict=True,
    ):
        assert tokens[sample, position] == (token, row)
    whole = session.select("all_rows", first_position=True)
    assert len(whole) == cache.run_document(cache.resolve_run("pictures")).n_rows
    with pytest.raises(QueryError, match="selected more than once"):
        session.select("select run_id, row_idx, sample_idx % 2 as label from tokens where kind = 'image'")


def test_another_row_than_the_first_tokens_is_still_found_out(folders: dict[str, Path], tmp_path: Path) -> None:
    cache = write_pictures_trace(folders["llava"], "llava", share_prefix=True).cache(tmp_path / "root")
    with cache.index.write() as connection:
        connection.execute("update tokens set row_idx = 5 where sample_idx = 1 and position = 7")
    found = steercache.open(cache.root).query("check_duplicate_rows").fetchall()
    assert [row for _, row, _ in found] == [5]


def test_models_that_read_both_ways_or_no_pictures_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    trace = write_pictures_trace(folders["paligemma"], "paligemma", share_prefix=True)
    with pytest.raises(UsageError, match="reads its prompt in both directions") as raised:
        trace.build(tmp_path / "root")
    assert "share_prefix" in str(raised.value)
    with pytest.raises(UsageError, match="reads no pictures"):
        write_small_trace(tmp_path / "t", share_prefix=True).build(tmp_path / "text")


def plan_of(folder: Path, **trace: Any) -> Plan:
    written = write_pictures_trace(folder, "llava", share_prefix=True, **trace)
    return plan_run(prepare_trace(written.manifest, cache_root=folder / "models", device="cpu").job)


def test_a_sample_longer_than_a_shard_was_thought_to_be_makes_all_shards_larger(folders: dict[str, Path]) -> None:
    long = ("The cat is on the table " * 150, 0)
    sites = ["resid_post", "resid_pre", "attn_out", "mlp_out"]
    plan = plan_of(folders["llava"], questions=[*QUESTIONS, long, *QUESTIONS], sites=sites, chunk_rows=256, shard_mib=1)
    layout = plan.document.layout
    guess = 2**20 // layout.row_bytes // 256 * 256
    assert plan.most_rows > guess
    assert layout.rows_per_shard >= plan.most_rows
    assert all(s.n_rows <= layout.rows_per_shard for s in plan.document.shards)
    assert sum(s.n_samples for s in plan.document.shards) == 2 * len(QUESTIONS) + 1
    first = plan.document.shards[0]
    assert first.n_rows < first.n_tokens


def sample(ids: list[int], picture: str) -> EncodedSample:
    t = len(ids)
    nothing = np.full(t, -1, dtype=np.int32)
    return EncodedSample(
        text="",
        input_ids=np.array(ids, dtype=np.int32),
        char_start=nothing,
        char_end=nothing,
        kind=np.zeros(t, dtype=np.int8),
        is_anchor=np.zeros(t, dtype=bool),
        is_control=np.zeros(t, dtype=bool),
        tile=nothing,
        patch_row=nothing,
        patch_col=nothing,
        image_digests=(picture,),
    )


@pytest.mark.parametrize("seed", range(5))
def test_shards_are_as_full_as_they_can_be_in_order_and_a_picture_begins_anew_in_each(seed: int) -> None:
    random = np.random.default_rng(seed)
    samples = [
        sample([9] * 4 + random.integers(0, 2, size=random.integers(1, 6)).tolist(), f"p{random.integers(0, 3)}")
        for _ in range(40)
    ]
    capacity, packing = 20, SharedPacking(20)
    for one in samples:
        packing.add(one, np.arange(one.n_tokens))
    tokens = np.array([s.n_tokens for s in samples])
    shards = packing.shards(tokens, [s.sample_id for s in samples])

    def rows(members: list[EncodedSample]) -> int:
        """Distinct (picture, first tokens up to here) by the owner's rule."""
        n, owners = 0, {}
        for one in members:
            owner = owners.setdefault(one.image_digests, one)
            same = owner is not one
            for i, token in enumerate(one.input_ids):
                same = same and i < owner.n_tokens and owner.input_ids[i] == token
                n += not same
        return n

    assert sum(s.n_samples for s in shards) == len(samples)
    for shard in shards:
        members = samples[shard.first_sample : shard.first_sample + shard.n_samples]
        assert shard.n_rows == rows(members) <= capacity
        following = samples[shard.first_sample : shard.first_sample + shard.n_samples + 1]
        assert len(following) == len(members) or rows(following) > capacity
