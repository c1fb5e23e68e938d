"""Patch maps: a planted direction lies where it was planted; projections are those of the rows; pictures those traced."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import yaml

from steercache import zoo
from steercache.analysis.patches import find_sample, patch_maps, views_of
from steercache.analysis.pictures import picture_of
from steercache.cache.handle import open_cache
from steercache.cli.main import run
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.frame import ViewFrame
from steercache.core.ids import digest_bytes
from steercache.core.vectors import FittedOn
from steercache.data.scenes import make_example
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from steercache.report.patches import patch_chart
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from tests.models.tiny_images import N_LAYERS, WIDTH
from tests.runs.pictures import write_pictures_trace
from tests.sweeps.small_run import vector
from tests.tracing import write_small_trace

SEED, N = 5, 3
LAYER, AMOUNT = 2, 40.0
PLANTED = {(1, 3), (4, 0)}  # rows and columns of the 5 x 5 patches
V = vector(np.random.default_rng(1).normal(size=(6, 96)).astype(np.float32), name="planted", run_id="x")


@contextmanager
def planting(loaded: LoadedModel) -> Iterator[LoadedModel]:
    """The model with AMOUNT times the unit direction added, inside its block, to two patches of every picture."""
    unit = torch.from_numpy(V.at(LAYER) / np.linalg.norm(V.at(LAYER)))
    columns = [5 * row + col for row, col in PLANTED]  # PaliGemma's image tokens come first, row by row
    block = loaded.model.model.language_model.layers[LAYER]
    forward = block.forward

    def planted(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs).clone()
        out[:, columns] += AMOUNT * unit
        return out

    block.forward = planted
    yield loaded
    block.forward = forward


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two caches of one multimodal trace of drawn scenes: as it is, and planted."""
    folder = tmp_path_factory.mktemp("patches")
    zoo.build("tiny", folder / "model")
    trace = write_small_trace(
        folder,
        name="scenes-run",
        model={
            "kind": "model",
            "version": 1,
            "name": "tiny",
            "source": {"type": "path", "folder": "model"},
            "dtype": "float32",
        },
        datasets=[
            {
                "kind": "dataset",
                "version": 1,
                "name": "drawn",
                "source": {"type": "scenes", "seed": SEED, "n": N, "form": "word", "prefix": "answer en "},
            }
        ],
        rows_per_shard=256,
    )
    trace.build(folder / "plain")
    prepared = prepare_trace(trace.manifest, cache_root=folder / "planted", device="cpu")
    cache = open_cache(folder / "planted", create=True)
    with planting(prepared.load()) as loaded:
        build_run(cache, plan_run(prepared.job, cache=cache), replace(prepared, load=lambda: loaded), BuildOptions())
    for root in (folder / "plain", folder / "planted"):
        open_session(root).save(V)
    return folder / "plain", folder / "planted"


@pytest.fixture
def plain(roots: tuple[Path, Path]) -> Session:
    return open_session(roots[0])


def test_a_planted_direction_shows_up_in_its_patches_and_nowhere_else(roots: tuple[Path, Path]) -> None:
    for wanted in range(N):
        maps = []
        for root in roots:
            session = open_session(root)
            maps.append(patch_maps(session, find_sample(session, None, str(wanted)), "planted", layers=[1, LAYER, 4]))
        plain, planted = ([m.projection_rc for m in one.maps] for one in maps)
        assert plain[1].shape == (5, 5)
        np.testing.assert_array_equal(planted[0], plain[0])  # the block before it
        difference = planted[1] - plain[1]
        mask = np.zeros((5, 5), dtype=bool)
        mask[tuple(zip(*PLANTED, strict=True))] = True
        np.testing.assert_allclose(difference[mask], AMOUNT, rtol=1e-4)
        np.testing.assert_array_equal(difference[~mask], 0)
        assert maps[1].maps[1].peak in PLANTED
        assert set(zip(*np.where(maps[1].maps[1].centred_rc > 20), strict=True)) == PLANTED


def test_projections_are_those_of_the_rows(plain: Session) -> None:
    sample = find_sample(plain, "scenes-run", "1")
    tokens = plain.sql(
        "select row_idx, patch_row, patch_col from tokens where run_id = $r and sample_idx = 1 and kind = 'image'",
        r=sample.run_id,
    ).fetchall()
    source = plain.cache.source(sample.run_id)
    for one in patch_maps(plain, sample, "planted", layers=[0, 5]).maps:
        unit = V.at(one.layer) / np.linalg.norm(V.at(one.layer))
        for row_idx, row, col in tokens:
            (own,) = source.gather("resid_post", one.layer, np.array([row_idx]))
            assert one.projection_rc[row, col] == pytest.approx(float(own @ unit), rel=1e-4, abs=1e-4)
        assert one.centred_rc.mean() == pytest.approx(0, abs=1e-6)
    assert len(tokens) == 25


def test_the_picture_is_read_again_from_its_data_set_and_no_other_is_taken(plain: Session, tmp_path: Path) -> None:
    sample = find_sample(plain, None, "2")
    data = picture_of(plain, sample)
    assert data == make_example(SEED, 2).png()
    assert digest_bytes(data) == sample.image_digest
    other = tmp_path / "other.png"
    other.write_bytes(make_example(SEED, 0).png())
    with pytest.raises(DamagedError, match="another picture") as caught:
        picture_of(plain, sample, other)
    assert caught.value.hint == "it was that of row 2 of drawn"
    assert find_sample(plain, None, sample.sample_id[:10]) == sample


@pytest.fixture(scope="module", params=["paligemma", "idefics3", "llava_onevision", "qwen2_5_vl"])
def of_several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Session]:
    """A folder with a trace of two questions, the second of which is about two pictures of different sizes; and its cache."""
    folder = tmp_path_factory.mktemp(request.param)
    trace = write_pictures_trace(folder, request.param, questions=[("The dog", 0), ("The cat", 1)])
    rows = [{"text": "The dog", "image": "0.png"}, {"text": "The cat", "image": ["1.png", "0.png"]}]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace.build(folder / "cache")
    session = open_session(folder / "cache")
    session.save(vector(np.ones((N_LAYERS, WIDTH), dtype=np.float32), name="ones", run_id="x"))
    return folder, session


def test_a_sample_of_several_pictures_is_refused_and_one_of_one_is_drawn(of_several: tuple[Path, Session]) -> None:
    _, session = of_several
    one, two = (find_sample(session, None, str(i)) for i in range(2))
    assert len(patch_maps(session, one, "ones", layers=[1]).maps) == 1
    for view in ("fine", "small"):
        with pytest.raises(UsageError, match="sample 1 has several pictures"):
            patch_maps(session, two, "ones", layers=[1], view=view)


def test_tokens_that_read_a_whole_view_are_not_drawn_on_the_picture(tmp_path: Path) -> None:
    write_pictures_trace(tmp_path, "idefics2", questions=[("The dog", 0)]).build(tmp_path / "cache")
    session = open_session(tmp_path / "cache")
    session.save(vector(np.ones((N_LAYERS, WIDTH), dtype=np.float32), name="ones", run_id="x"))
    with pytest.raises(UsageError, match="have no place on the picture"):
        patch_maps(session, find_sample(session, None, "0"), "ones", layers=[1])


def test_a_data_set_that_is_not_here_says_from_where_it_is_found(
    of_several: tuple[Path, Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, session = of_several
    sample = find_sample(session, None, "0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="questions") as caught:
        picture_of(session, sample)
    assert "in the folder of the trace's manifest" in str(caught.value.hint)
    assert "name the file" in str(caught.value.hint)
    monkeypatch.chdir(folder)
    assert picture_of(session, sample) == (folder / "0.png").read_bytes()


def test_a_data_set_named_in_the_trace_and_not_here_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    trace = write_pictures_trace(folder, "paligemma", questions=[("The dog", 0)])
    document = yaml.safe_load(trace.manifest.read_text())
    (folder / "questions.yaml").write_text(yaml.safe_dump(document["datasets"][0]))
    trace.manifest.write_text(yaml.safe_dump(document | {"datasets": ["questions"]}))
    trace.build(tmp_path / "cache")
    session = open_session(tmp_path / "cache")
    sample = find_sample(session, None, "0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="no dataset manifest named 'questions'") as caught:
        picture_of(session, sample)
    assert "in the folder of the trace's manifest" in str(caught.value.hint)
    monkeypatch.chdir(folder)
    assert picture_of(session, sample) == (folder / "0.png").read_bytes()


def test_a_saved_data_set_whose_split_was_left_out_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's document writes out every default, and this data set is no split named train."""
    trace = write_pictures_trace(tmp_path, "paligemma")
    data = (tmp_path / "0.png").read_bytes()
    rows = [{"text": "The dog", "image": {"bytes": data, "path": "0.png"}}]
    datasets.Dataset.from_list(rows, split=datasets.NamedSplit("test")).save_to_disk(tmp_path / "saved")
    document = yaml.safe_load(trace.manifest.read_text())
    document["datasets"][0]["source"] = {"type": "hf", "path": "saved", "columns": {"image": "image"}}
    trace.manifest.write_text(yaml.safe_dump(document))
    trace.build(tmp_path / "cache")
    session = open_session(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert picture_of(session, find_sample(session, None, "0")) == data


def test_tiles_that_share_no_coordinate_are_one_look_and_crops_are_left_out() -> None:
    def block(tile: int, top: int, left: int, n: int) -> list[tuple[int, int, int]]:
        return [(tile, top + r, left + c) for r in range(n) for c in range(n)]

    idefics = np.array([*block(0, 0, 0, 3), *block(1, 0, 3, 3), *block(2, 0, 0, 3)])
    looks, notes = views_of(*idefics.T)
    assert notes == ["1 crops or further pictures are not drawn"] or len(looks) == 2
    onevision = np.array([*block(0, 0, 0, 3), *block(1, 0, 0, 6)])
    looks, notes = views_of(*onevision.T)
    assert [int(look.sum()) for look in looks] == [9, 36]
    assert notes == []
    gemma = np.array([*block(0, 0, 0, 4), *block(1, 0, 0, 4), *block(2, 0, 0, 4)])
    looks, notes = views_of(*gemma.T)
    assert [int(look.sum()) for look in looks] == [16]
    assert notes == ["2 crops or further pictures are not drawn"]


def test_what_cannot_be_drawn_says_why(plain: Session) -> None:
    sample = find_sample(plain, None, "0")
    with pytest.raises(UsageError, match="no layer 6"):
        patch_maps(plain, sample, "planted", layers=[6])
    with pytest.raises(NotFoundError, match="no sample '99'"):
        find_sample(plain, None, "99")
    plain.save(vector(np.ones((6, 32), dtype=np.float32), name="narrow"))
    with pytest.raises(UsageError, match="32 wide"):
        patch_maps(plain, sample, "narrow", layers=[1])


def test_the_chart_holds_every_patch_of_every_layer(plain: Session) -> None:
    sample = find_sample(plain, None, "1")
    maps = patch_maps(plain, sample, "planted", layers=[1, 3])
    chart = patch_chart(maps, picture_of(plain, sample)).to_dict()
    panels = chart["concat"]
    assert len(panels) == 3
    for one, panel in zip(maps.maps, panels[1:], strict=True):
        values = [row["value"] for row in panel["layer"][1]["data"]["values"]]
        np.testing.assert_allclose(np.sort(values), np.sort(one.centred_rc.ravel()))
        places = {(row["y"], row["x"]): row["value"] for row in panel["layer"][1]["data"]["values"]}
        assert places[0.4, 0.8] == pytest.approx(one.centred_rc[2, 4])


def test_a_cropped_view_lies_on_the_picture_s_middle(plain: Session) -> None:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (300, 100)).save(stream, format="PNG")
    maps = patch_maps(plain, find_sample(plain, None, "1"), "planted", layers=[1])
    for edge, across, down in (("shortest", (1 / 3, 2 / 3), (0, 1)), ("longest", (0, 1), (-1, 2))):
        framed = replace(maps, frame=ViewFrame(edge=edge, share=1.0))  # type: ignore[arg-type]
        cells = patch_chart(framed, stream.getvalue()).to_dict()["concat"][1]["layer"][1]
        rows = cells["data"]["values"]
        for low, high, ends in (("x", "x2", across), ("y", "y2", down)):
            assert (min(r[low] for r in rows), max(r[high] for r in rows)) == pytest.approx(ends)
        assert cells["mark"]["clip"]


def test_the_picture_is_drawn_as_the_model_got_it(plain: Session) -> None:
    maps = patch_maps(plain, find_sample(plain, None, "1"), "planted", layers=[1])
    stream = io.BytesIO()
    PIL.Image.new("RGBA", (30, 20), (200, 0, 0, 51)).save(stream, format="PNG")
    url = patch_chart(maps, stream.getvalue()).to_dict()["concat"][0]["data"]["values"][0]["url"]
    drawn = PIL.Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))
    assert drawn.mode == "RGB"
    assert drawn.getpixel((7, 7)) == (244, 204, 204)  # a fifth of the red on white
    deep = io.BytesIO()
    PIL.Image.new("I;16", (30, 20), 40_000).save(deep, format="PNG")
    with pytest.raises(UsageError, match="more than 8 bits"):
        patch_chart(maps, deep.getvalue())


def test_the_command_writes_the_picture_and_the_numbers(
    roots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "patches", "scenes-run", "0", "planted", "--layer", f"0,{LAYER}", "--root", str(roots[1])]
    assert run([*words, "--out", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "5 x 5 patches" in capsys.readouterr().out
    assert run([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert tuple(shown["layers"][1]["peak"]) in PLANTED
    assert Path(shown["picture"]).is_file()
    assert run(["report", "patches", "scenes-run", "0", "planted", "--layer", "0-30", "--root", str(roots[1])]) == 2


def test_a_vector_of_another_model_of_equal_width_is_refused_unless_allowed(
    roots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(roots[0], tmp_path / "root")
    session = open_session(tmp_path / "root")
    session.save(
        replace(
            V,
            name="elsewhere",
            values=2 * V.values,
            fitted_on=FittedOn(name="other", fingerprint="e" * 64, modality="text"),
        )
    )
    sample = find_sample(session, None, "0")
    with pytest.raises(UsageError, match="does not descend from: other"):
        patch_maps(session, sample, "elsewhere", layers=[LAYER])
    line = [
        "report",
        "patches",
        "scenes-run",
        "0",
        "elsewhere",
        "--layer",
        str(LAYER),
        "--root",
        str(tmp_path / "root"),
    ]
    out = tmp_path / "p.png"
    assert run([*line, "--out", str(out)]) == 2
    assert not out.exists()
    assert "does not descend from: other" in capsys.readouterr().err
    assert run([*line, "--out", str(out), "--allow-foreign"]) == 0
    assert out.exists()
    allowed = patch_maps(session, sample, "elsewhere", layers=[LAYER], allow_foreign=True)
    assert any("foreign" in note for note in allowed.notes)
    own = patch_maps(session, sample, "planted", layers=[LAYER])
    np.testing.assert_allclose(allowed.maps[0].projection_rc, own.maps[0].projection_rc, rtol=1e-5)
