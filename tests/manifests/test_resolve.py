"""A trace finds what it names, or says everything that it did not find."""

from pathlib import Path

import pytest

from steercache.core.errors import ManifestError, NotFoundError
from steercache.manifests import DatasetManifest, ModelManifest, load_manifest, resolve_trace

MODEL = "kind: model\nversion: 1\nname: {name}\nsource: {{type: hub, id: a/b}}\n"
DATASET = "kind: dataset\nversion: 1\nname: {name}\nsource: {{type: text, path: corpus.txt}}\n"


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def trace(folder: Path, *, model: str = "mine", datasets: str = "[text, concepts]") -> Path:
    text = f"kind: trace\nversion: 1\nname: t\nmodel: {model}\ndatasets: {datasets}\n"
    return write(folder, "t", text)


def test_names_are_found_beside_the_trace_before_the_shipped_ones(tmp_path: Path) -> None:
    write(tmp_path, "mine", MODEL.format(name="mine"))
    write(tmp_path, "text", DATASET.format(name="text"))
    write(tmp_path, "concepts", DATASET.format(name="concepts"))
    found = resolve_trace(trace(tmp_path))
    assert found.model.base_dir == tmp_path
    assert [d.document.source.type for d in found.datasets] == ["text", "text"]


def test_names_are_found_in_the_folders_models_and_datasets_beside_traces(tmp_path: Path) -> None:
    write(tmp_path / "models", "mine", MODEL.format(name="mine"))
    write(tmp_path / "datasets", "text", DATASET.format(name="text"))
    found = resolve_trace(trace(tmp_path / "traces"))
    assert found.model.base_dir == tmp_path / "models"
    assert [d.base_dir.name for d in found.datasets] == ["datasets", "datasets"]
    assert found.datasets[1].document == load_manifest("concepts", kind="dataset")


def test_names_are_found_in_search_folders(tmp_path: Path) -> None:
    write(tmp_path / "a", "mine", MODEL.format(name="mine"))
    write(tmp_path / "b", "text", DATASET.format(name="text"))
    path = trace(tmp_path / "c")
    found = resolve_trace(path, search=[tmp_path / "a", tmp_path / "b"])
    assert found.model.base_dir.name == "a"
    assert found.datasets[0].base_dir.name == "b"


def test_a_model_and_a_dataset_may_share_a_name(tmp_path: Path) -> None:
    write(tmp_path / "models", "same", MODEL.format(name="same"))
    write(tmp_path / "datasets", "same", DATASET.format(name="same"))
    found = resolve_trace(trace(tmp_path, model="same", datasets="[same]"))
    assert isinstance(found.model.document, ModelManifest)
    assert isinstance(found.datasets[0].document, DatasetManifest)


def test_every_name_that_is_not_found_is_reported_with_its_line_and_the_nearest_one(tmp_path: Path) -> None:
    path = trace(tmp_path, model="smolm2-135m", datasets="\n  - concept\n  - nothing-like-it")
    with pytest.raises(ManifestError) as caught:
        resolve_trace(path)
    problems = caught.value.problems
    assert [(p.file, p.line, p.loc, p.kind) for p in problems] == [
        (str(path), 4, "model", "unknown_reference"),
        (str(path), 6, "datasets.0", "unknown_reference"),
        (str(path), 7, "datasets.1", "unknown_reference"),
    ]
    assert "did you mean `smollm2-135m`?" in problems[0].message
    assert "did you mean `concepts`?" in problems[1].message
    assert "did you mean" not in problems[2].message


def test_problems_of_the_documents_it_names_are_reported_together_each_with_its_own_file(tmp_path: Path) -> None:
    model = write(tmp_path, "mine", MODEL.format(name="mine") + "dtype: half\n")
    data = write(tmp_path, "text", DATASET.format(name="text") + "limit: 0\n")
    with pytest.raises(ManifestError) as caught:
        resolve_trace(trace(tmp_path))
    assert [(p.file, p.line, p.loc) for p in caught.value.problems] == [
        (str(model), 5, "dtype"),
        (str(data), 5, "limit"),
    ]


def test_a_document_of_the_wrong_kind_is_no_answer_to_a_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        resolve_trace(trace(tmp_path, model="concepts", datasets="[smollm2-135m]"))
    assert [p.message.split(":")[0] for p in caught.value.problems] == [
        "'concepts' is no model manifest",
        "'smollm2-135m' is no dataset manifest",
    ]


def test_a_file_that_calls_itself_otherwise_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "mine", MODEL.format(name="yours"))
    with pytest.raises(ManifestError) as caught:
        resolve_trace(trace(tmp_path, datasets="[concepts]"))
    assert [(p.loc, p.kind) for p in caught.value.problems] == [("model", "unknown_reference")]


def test_the_backbone_of_the_model_is_resolved_too(tmp_path: Path) -> None:
    write(tmp_path, "mine", MODEL.format(name="mine") + "backbone: smollm2-135m\n")
    found = resolve_trace(trace(tmp_path, datasets="[concepts]"))
    assert found.backbone is not None
    assert found.backbone.document.name == "smollm2-135m"


def test_a_backbone_that_is_not_there_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "mine", MODEL.format(name="mine") + "backbone: smollm3\n")
    with pytest.raises(ManifestError) as caught:
        resolve_trace(trace(tmp_path, datasets="[concepts]"))
    assert [p.kind for p in caught.value.problems] == ["unknown_reference"]


def test_paths_of_inline_documents_are_relative_to_the_trace(tmp_path: Path) -> None:
    data = "[{kind: dataset, version: 1, name: i, source: {type: text, path: c.txt}}]"
    model = "{kind: model, version: 1, name: m, source: {type: path, folder: w}}"
    found = resolve_trace(trace(tmp_path, model=model, datasets=data))
    assert found.model.base_dir == found.datasets[0].base_dir == tmp_path


def test_a_name_that_nothing_answers_to_says_the_nearest_one() -> None:
    with pytest.raises(NotFoundError, match="did you mean `smollm2-concepts`"):
        resolve_trace("smollm2-concept")
    with pytest.raises(NotFoundError, match="is no trace manifest"):
        resolve_trace("concepts")


def test_a_file_of_json_is_a_file_and_not_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.json").write_text(
        '{"kind": "model", "version": 1, "name": "m", "source": {"type": "hub", "id": "a/b"}}'
    )
    assert load_manifest("m.json").name == "m"
    with pytest.raises(NotFoundError, match="no such manifest file"):
        load_manifest("n.json")
