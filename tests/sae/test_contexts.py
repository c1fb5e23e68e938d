"""Texts on which features fire most: those of a plain search, the same whether the run is encoded or not."""

from pathlib import Path

import numpy as np
import pytest

from steercache.queries.session import Session, open_session
from steercache.sae import contexts
from steercache.sae.contexts import top_contexts, whole_encoding
from steercache.sae.encode import encode_run
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from tests.sae.folders import D_SAE, inference, saved
from tests.sae.small_run import WORDS, write_run

FEATURES = tuple(range(D_SAE))


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    return load_sae(saved(inference("standard"), tmp_path_factory.mktemp("contexts") / "sae"))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    root = tmp_path_factory.mktemp("contexts") / "root"
    write_run(root, finite=False)
    return open_session(root)


def test_the_strongest_token_of_each_sample_is_found_as_by_a_plain_search(session: Session, sae: LoadedSae) -> None:
    sel = session.select("anchor_vs_control", concept="counting")
    found = top_contexts(session, sel.source, sae, FEATURES, n_contexts=3)
    in_order = "SELECT row_idx FROM tokens WHERE run_id = $run ORDER BY sample_idx, position"
    rows = np.asarray([row for (row,) in session.sql(in_order, run=sel.run_id).fetchall()])
    rows_nd = np.asarray(sel.source.gather("resid_post", 1, rows), np.float32)
    finite = np.isfinite(rows_nd).all(axis=1)
    import torch

    acts = sae.encode(torch.from_numpy(np.where(finite[:, None], rows_nd, 0))).numpy() * finite[:, None]
    words = WORDS.split()
    for f in FEATURES:
        best = []
        for sample in range(len(rows_nd) // 12):
            places = [p for p in range(1, 12) if acts[sample * 12 + p, f] > 0]
            if places:
                best.append(max((acts[sample * 12 + p, f], -sample, p) for p in places))
        expected = [(words[p], value) for value, _, p in sorted(best, reverse=True)[:3]]
        assert [c.token.strip() for c in found[f].contexts] == [word for word, _ in expected]
        np.testing.assert_allclose([c.value for c in found[f].contexts], [v for _, v in expected], rtol=1e-5)


def test_an_encoded_run_is_read_and_not_encoded_again(
    session: Session, sae: LoadedSae, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = session.select("anchor_vs_control", concept="counting").source
    assert whole_encoding(session.cache.paths, sae, source) is None
    without = top_contexts(session, source, sae, FEATURES)
    part = top_contexts(session, source, sae, FEATURES, max_rows=50)
    assert part != without, "a part of the rows shows other texts"
    encode_run(session.cache, sae, source.run_id)
    encoded = whole_encoding(session.cache.paths, sae, source)
    assert encoded is not None
    monkeypatch.setattr(contexts, "encode_rows", None)
    read = top_contexts(session, source, sae, FEATURES, max_rows=50, encoded=encoded)
    assert [e.record() for e in read.values()] == [e.record() for e in without.values()]
    # a shard that has no features of the rows in force: what is there does not stand for the run
    next(iter(encoded.encoding.paths.records.glob("*.json"))).unlink()
    assert whole_encoding(session.cache.paths, sae, source) is None


def test_a_feature_that_never_fires_has_no_contexts(session: Session, tmp_path: Path) -> None:
    module = inference("standard")
    module.b_enc.data[:] = -1e6
    silent = load_sae(saved(module, tmp_path / "silent"))
    source = session.select("anchor_vs_control", concept="counting").source
    assert top_contexts(session, source, silent, [0])[0].contexts == ()
