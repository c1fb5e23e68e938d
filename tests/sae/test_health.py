"""Health by kind of row against plain numpy in float64, and loss recovered against extremes that are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.analysis.sae_loss import loss_recovered
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cli.main import run
from steercache.core.errors import SteercacheWarning, UsageError
from steercache.sae.health import Health, KindHealth, measure_health, read_health
from steercache.sae.health_limits import HealthLimits, check_health
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from tests.index.small import Sentence
from tests.queries.small_cache import add_run
from tests.sae.folders import D_IN, inference, saved
from tests.sae.small_run import damaged_values, values, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(inference("jumprelu", prepend_bos=True), tmp_path_factory.mktemp("health") / "small-sae")


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    """Twelve image tokens, a BOS and eleven words per sample; two rows are not finite."""
    words = "one two three four five six seven eight nine ten eleven"
    shards = [[Sentence(text=words, bos=True, n_image=12) for _ in range(2)] for _ in range(4)]
    add_run(tmp_path / "root", "mixed", shards, width=D_IN, values=damaged_values, modality="multimodal")
    return open_cache(tmp_path / "root")


def by_hand(x: np.ndarray, sae: LoadedSae) -> dict[str, Any]:
    """The numbers of one kind, in a few lines of numpy."""
    f = sae.encode(torch.from_numpy(x)).numpy()
    r = sae.decode(torch.from_numpy(f)).double().numpy()
    x = x.astype(np.float64)
    rate = (f != 0).mean(axis=0)
    return {
        "n_rows": len(x),
        "explained_variance": 1 - ((x - r) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum(),
        "cosine": np.mean(
            (x * r).sum(axis=1) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(r, axis=1), 1e-30)
        ),
        "mse": ((x - r) ** 2).mean(),
        "l0_mean": (f != 0).sum(axis=1).mean(),
        "l0_median": np.median((f != 0).sum(axis=1)),
        "n_dead": int((rate == 0).sum()),
        "n_dense": int((rate > 0.1).sum()),
    }


def test_every_kind_of_row_has_the_numbers_that_numpy_gives(cache: CacheFolder, folder: Path) -> None:
    sae, run_id = load_sae(folder), cache.resolve_run("mixed")
    health = measure_health(cache, sae, run_id)
    # 24 rows per sample, two samples per shard of 64 slots: 12 image tokens, then BOS, then 11 words
    rows = np.concatenate([np.arange(shard * 64, shard * 64 + 48) for shard in range(4)])
    place = (rows % 64) % 24
    x = damaged_values(rows, 1)
    finite = np.isfinite(x).all(axis=1)
    kind = np.select([place == 0, place < 12, place == 12], ["first", "image", "special"], "text")
    assert [one.kind for one in health.kinds] == ["all", "first", "image", "special", "text"]
    for one in health.kinds:
        mine = (kind != "first") if one.kind == "all" else (kind == one.kind)
        expected = by_hand(x[mine & finite], sae)
        assert {name: getattr(one, name) for name in expected} == pytest.approx(expected, rel=1e-5), one.kind
        assert one.n_non_finite == int((mine & ~finite).sum())
    assert health.of("all").n_non_finite == 2


def test_rows_normalised_one_by_one_are_rebuilt_with_their_own_statistics(tmp_path: Path) -> None:
    run_id = write_run(tmp_path / "root")
    module = inference("standard", normalize_activations="layer_norm")
    sae = load_sae(saved(module, tmp_path / "sae"))
    health = measure_health(open_cache(tmp_path / "root"), sae, run_id)
    rows = np.concatenate([np.arange(s * 64, s * 64 + 48) for s in range(4)])
    x = values(rows, 1)[(rows % 64) % 12 != 0]
    rebuilt = sae.reconstruct(torch.from_numpy(x)).double().numpy()
    assert health.of("text").mse == pytest.approx(((x - rebuilt) ** 2).mean(), rel=1e-5)


def test_it_is_measured_once_and_again_for_another_generation(
    cache: CacheFolder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steercache.cache.compact import compact_run

    sae, run_id = load_sae(folder), cache.resolve_run("mixed")
    first = measure_health(cache, sae, run_id)
    assert read_health(cache.paths.encoding(sae.spec.sae_id, run_id)) == first
    with monkeypatch.context() as patch:
        patch.setattr(sae.module, "encode", None)  # computing would fail
        assert measure_health(cache, sae, run_id) == first
    compact_run(cache, run_id, codec="int8")
    again = measure_health(cache, sae, run_id)
    assert (again.generation, again.lossy) == ("g0002", True)
    assert again.of("text").mse != first.of("text").mse


def healthy(**changes: Any) -> Health:
    row = KindHealth(
        kind="all",
        n_rows=1000,
        n_non_finite=0,
        explained_variance=0.9,
        cosine=0.95,
        mse=0.1,
        l0_mean=30.0,
        l0_median=30.0,
        n_dead=10,
        n_dense=5,
    )
    whole = Health(
        sae_id="a" * 64,
        sae="some",
        run_id="b" * 64,
        site="resid_post",
        layer=3,
        generation="g0001",
        lossy=False,
        n_features=1000,
        kinds=(row,),
    )
    return replace(whole, kinds=(replace(row, **changes),))


def test_an_sae_below_a_limit_is_refused_and_a_doubtful_one_warned_of() -> None:
    assert check_health(healthy()) == ()
    with pytest.raises(UsageError, match=r"explained variance -1\.00, below 0\.00"):
        check_health(healthy(explained_variance=-1.0))
    with pytest.warns(SteercacheWarning, match="below 0.00"):
        assert len(check_health(healthy(explained_variance=-1.0), refuse=False)) == 1
    with pytest.warns(SteercacheWarning, match=r"explained variance 0\.30, below 0\.50"):
        check_health(healthy(explained_variance=0.3))
    with pytest.raises(UsageError, match="300 of 1,000 features fire"):
        check_health(healthy(l0_mean=300.0))
    with pytest.warns(SteercacheWarning, match="950 of 1,000 features never fire"):
        check_health(healthy(n_dead=950))
    with pytest.warns(SteercacheWarning, match="only 3 rows"):
        check_health(healthy(n_rows=3, explained_variance=-5.0))
    with pytest.raises(UsageError, match="no image rows"):
        check_health(healthy(), kind="image")
    assert check_health(healthy(explained_variance=0.3), HealthLimits(warn_explained_variance=0.2)) == ()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> steercache.Cache:
    folder = tmp_path_factory.mktemp("loss")
    lines = ["There are two cats on the mat.", "We see three dogs near a big tree.", "She has four small birds."]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")
    cache = steercache.open(folder / "root", create=True)
    cache.build(folder / "texts.txt", model="tiny-backbone", progress=False)
    return cache


def of_width(cache: steercache.Cache, folder: Path, *, identity: bool) -> LoadedSae:
    """An SAE that gives every row back (both signs of every value are features), or says zero always."""
    d = cache.run("texts").hidden_size
    import sae_lens

    sae_class, config_class = sae_lens.registry.get_sae_class("standard")
    from tests.sae.folders import metadata

    said = metadata(model_name="tiny-backbone", hook_name="blocks.1.hook_resid_post", prepend_bos=None)
    module = sae_class(config_class(d_in=d, d_sae=2 * d, apply_b_dec_to_input=False, metadata=said))
    eye = torch.eye(d)
    module.W_enc.data = torch.cat([eye, -eye], dim=1) * identity
    module.W_dec.data = torch.cat([eye, -eye], dim=0)
    for bias in (module.b_enc, module.b_dec):
        bias.data.zero_()
    return load_sae(saved(module, folder))


def test_a_perfect_sae_recovers_all_of_the_loss_and_a_silent_one_none(traced: steercache.Cache, tmp_path: Path) -> None:
    model = traced.model("tiny-backbone", device="cpu")
    perfect = of_width(traced, tmp_path / "perfect", identity=True)
    health = traced.sae_health(perfect, run="texts", model=model, device="cpu", progress=False)
    assert health.of("text").explained_variance == pytest.approx(1, abs=1e-6)
    loss = health.loss
    assert loss is not None
    assert (loss.n_texts, loss.recovered) == (3, pytest.approx(1, abs=1e-5))
    assert loss.zero != pytest.approx(loss.clean, abs=1e-3)
    assert len({loss.mean, loss.zero, loss.clean}) == 3
    assert traced.sae_health(perfect, run="texts", model=model, progress=False) == health, "kept beside the encoding"

    silent = of_width(traced, tmp_path / "silent", identity=False)
    run_id = traced.run("texts").run_id
    none = loss_recovered(traced.folder, silent, run_id, model)
    assert none.reconstructed == pytest.approx(none.zero, abs=1e-6)
    assert (none.clean, none.zero, none.mean) == (loss.clean, loss.zero, loss.mean)

    ids = [
        ids
        for (ids,) in traced.sql("SELECT list(token_id ORDER BY position) FROM tokens GROUP BY sample_idx").fetchall()
    ]
    with torch.inference_mode():  # the clean loss, as transformers itself computes it
        sums = [float(model.model(input_ids=(t := torch.tensor([one])), labels=t).loss) * (len(one) - 1) for one in ids]
    assert loss.clean == pytest.approx(sum(sums) / sum(len(one) - 1 for one in ids), rel=1e-5)


def test_a_run_of_other_weights_has_no_loss(traced: steercache.Cache, tmp_path: Path) -> None:
    sae = of_width(traced, tmp_path / "sae", identity=True)
    model = traced.model("tiny-backbone", device="cpu")
    other = replace(model, bundle=replace(model.bundle, spec=replace(model.spec, fingerprint="0" * 64)))
    with pytest.raises(UsageError, match="other weights"):
        loss_recovered(traced.folder, sae, traced.run("texts").run_id, other)


def test_the_command_shows_the_kinds_and_the_loss(
    traced: steercache.Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_width(traced, tmp_path / "sae", identity=True)
    words = ["sae", "health", str(tmp_path / "sae"), "--run", "texts", "--root", str(traced.root), "--device", "cpu"]
    assert run(words) == 0
    assert "explained" in capsys.readouterr().out
    assert run([*words, "--model", "tiny-backbone", "--texts", "2"]) == 0
    assert "loss recovered: 1.000 from zero ablation" in capsys.readouterr().out
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"]["recovered"] == pytest.approx(1, abs=1e-5)
    assert found["kinds"][0]["kind"] == "all"
