"""Names, cards and folders of the zoo."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.zoo.cards import START, tables
from bench.zoo.drift import drift
from bench.zoo.evaluate import put
from steercache import zoo
from steercache.core.errors import NotFoundError, UsageError
from steercache.data.scenes import COLOURS, make_example
from steercache.manifests.model import ModelManifest, PathModel
from steercache.zoo.shelf import DEMO, TINY

# PaliGemma's processor turns tensors into arrays in a way that numpy 2 deprecates: not ours to mend
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.build("tiny", tmp_path_factory.mktemp("zoo") / "tiny")


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processors: Any = AutoProcessor
    return processors.from_pretrained(tiny), AutoModelForImageTextToText.from_pretrained(tiny)


def test_every_name_has_a_card_and_scores() -> None:
    assert set(zoo.names()) == {"tiny", "tiny-backbone", "demo", "demo-backbone"}
    for name in zoo.names():
        assert zoo.card(name).startswith("# ")
        assert set(zoo.scores(name)["scores"]) == {"plain", "shuffled", "shifted"}


def test_a_manifest_of_a_shipped_model_is_put_in_place_and_any_other_left_alone(tmp_path: Path) -> None:
    def manifest(source: dict[str, str]) -> ModelManifest:
        return ModelManifest.model_validate({"kind": "model", "version": 1, "name": "m", "source": source})

    placed = zoo.in_place(manifest({"type": "zoo", "name": "tiny-backbone"}), tmp_path).source
    assert isinstance(placed, PathModel)
    assert (Path(placed.folder) / "config.json").is_file()
    other = manifest({"type": "hub", "id": "a/b"})
    assert zoo.in_place(other, tmp_path) is other


def test_a_folder_is_on_the_disk_before_it_has_its_name_and_what_a_killed_process_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    def noted_replace(old: Path, new: Path) -> None:
        done.append(f"rename {old}")
        replace(old, new)

    left = tmp_path / ".m.tmp-killed"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    out = zoo.build("tiny-backbone", tmp_path / "m")
    assert not left.exists()
    (at,) = (i for i, step in enumerate(done) if step.startswith("rename "))
    part = done[at].removeprefix("rename ")
    assert {part, *(f"{part}/{p.relative_to(out)}" for p in out.rglob("*"))} <= {*done[:at]}
    assert done[at + 1 :] == [str(tmp_path)]


def test_an_unknown_name_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(NotFoundError, match="tiny-backbone"):
        zoo.build("huge", "/nowhere")
    with pytest.raises(NotFoundError):
        zoo.card("huge")


def test_building_again_changes_nothing(tiny: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tiny.iterdir()}
    assert zoo.build("tiny", tiny) == tiny
    assert {path.name: path.stat().st_mtime_ns for path in tiny.iterdir()} == before


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="something else"):
        zoo.build("tiny", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(part: Path) -> None:
        (part / "half").write_text("a model")
        raise RuntimeError("no space")

    monkeypatch.setitem(zoo.shelf._MAKERS, "tiny", fail)
    with pytest.raises(RuntimeError, match="no space"):
        zoo.build("tiny", tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_build_one_folder_at_once_all_find_it_and_it_never_goes_away(tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    processes = multiprocessing.get_context("fork")
    ready, found = processes.Barrier(6), processes.SimpleQueue()

    def build() -> None:
        ready.wait()
        found.put(zoo.build("tiny-backbone", out).stat().st_ino)

    builders = [processes.Process(target=build) for _ in range(6)]
    for builder in builders:
        builder.start()
    n_seen = n_missing = 0
    while any(builder.is_alive() for builder in builders):
        is_there = (out / "model.safetensors").is_file()
        n_missing += bool(n_seen) and not is_there
        n_seen += is_there
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0] * 6
    assert {found.get() for _ in builders} == {out.stat().st_ino}, "one folder, which nobody replaced"
    assert n_missing == 0
    assert n_seen > 0
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"], "no lock and no part is left"


def test_no_shipped_file_names_a_place_on_a_machine() -> None:
    for path in [*TINY.rglob("*.json"), *DEMO.rglob("*.json"), *TINY.rglob("*.md"), *DEMO.rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        assert "/tmp/" not in text, path
        assert "/work/" not in text, path
        assert "/root" not in text, path


def test_what_is_shipped_stays_small() -> None:
    for shelf, limit in ((TINY, 6), (DEMO, 40)):
        assert sum(path.stat().st_size for path in shelf.rglob("*") if path.is_file()) < limit * 2**20


def test_tiny_answers_through_the_ordinary_classes(loaded: tuple[Any, Any]) -> None:
    processor, model = loaded
    assert type(model).__name__ == "PaliGemmaForConditionalGeneration"
    examples = [make_example(1, idx) for idx in range(8)]
    texts = [put(processor, example.question.prompt) for example in examples]
    images = [[example.image()] for example in examples]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [25] * 8
    inputs.pop("labels", None)
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    words = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert all(word.strip() for word in words)


def test_the_prefix_of_tiny_is_bidirectional(loaded: tuple[Any, Any]) -> None:
    processor, model = loaded
    image = [[make_example(1, 0).image()]]
    states = []
    for word in ("star", "moon"):
        inputs = processor(text=[put(processor, f"Where is the {word}?")], images=image, return_tensors="pt")
        inputs.pop("labels", None)
        states.append(model(**inputs, output_hidden_states=True).hidden_states[2][0, :25].detach().float())
    assert float((states[0] - states[1]).abs().max()) > 0, "image rows depend on the question"


def test_the_words_of_the_scenes_are_single_tokens_of_tiny(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[0].tokenizer
    for word in ("left", "right", "above", "below", "red", "blue", "star", "three", "under"):
        assert len(tokenizer.tokenize(f" {word}")) == 1, word


def test_the_backbone_of_tiny_knows_which_words_answer_which_question(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = zoo.build("tiny-backbone", tmp_path / "backbone")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "Gemma2ForCausalLM"

    def share(text: str, words: tuple[str, ...]) -> float:
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
        return float(logits.float().softmax(-1)[tokenizer.convert_tokens_to_ids(list(words))].sum())

    where = "Answer with one word.\nWhere is the moon with respect to the star?\n"
    assert share(f"The star is left of the moon.\n{where}", ("left", "right")) > 0.9
    assert share(f"The star is above the moon.\n{where}", ("above", "below")) > 0.9
    count = "Answer with the number only.\nHow many hearts are in the picture?\n"
    assert share(f"I see a heart, a heart.\n{count}", ("1", "2", "3", "4", "5")) > 0.9
    colour = "Answer with one word.\nWhat colour is the cross?\n"
    assert share(f"I see a red heart and a blue cross.\n{colour}", COLOURS) > 0.9


def test_the_drift_of_tiny_is_the_documented_one(tiny: Path, tmp_path: Path) -> None:
    found = drift(zoo.build("tiny-backbone", tmp_path / "backbone"), tiny)
    assert found["cosine_by_layer"] == pytest.approx(zoo.scores("tiny")["drift"]["cosine_by_layer"], abs=0.02)


@pytest.mark.parametrize("shelf", [TINY, DEMO])
def test_the_tables_of_a_card_are_those_of_its_scores(shelf: Path) -> None:
    scores = json.loads((shelf / "scores.json").read_text(encoding="utf-8"))
    assert (shelf / "card.md").read_text(encoding="utf-8").split(START)[1].strip() == tables(scores).strip()
