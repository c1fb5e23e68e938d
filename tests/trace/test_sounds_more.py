"""Sounds in Voxtral, Gemma 4 and Gemma 3n: tokens, times, values and steering, against their processors and plain hooks."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.core.examples import TOKEN_KINDS
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.models.tokenizers import read_tokenizer
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture
from steercache.trace.encode import EncodingProblem, encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_audio import N_LAYERS, WIDTH, samples_of, sound, voxtral, write_hearing
from tests.models.tiny_images import written
from tests.steering.small import directions
from tests.steering.test_branch import full_logits
from tests.steering.tiny import vector
from tests.trace.test_sounds import AUDIO, batch_of, example

FAMILIES = ("voxtral", "gemma4", "gemma3n")
EACH_MS = {"voxtral": 80, "gemma4": 40, "gemma3n": 160}
MARK = {"voxtral": "[AUDIO]", "gemma4": "<|audio|>", "gemma3n": "<audio_soft_token>"}
_LOADED: dict[str, LoadedModel] = {}


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    family = str(request.param)
    if family not in _LOADED:
        _LOADED[family] = fresh(family, tmp_path_factory.mktemp(family))
    return _LOADED[family]


def fresh(family: str, folder: Path) -> LoadedModel:
    write_hearing(family, folder)
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype="float32")


def n_tokens(family: str, seconds: float) -> int:
    """Audio tokens of one sound, from how each model is described."""
    if family == "voxtral":  # every begun chunk (two seconds here) whole
        return 25 * int(np.ceil(seconds / 2))
    if family == "gemma3n":  # as many for any sound (188 in the published models)
        return 6
    frames = int(
        (seconds * 16_000 + 160 - 321) // 160 + 1
    )  # 20 ms wide, 10 ms apart, the first begins before the sound
    return int(np.ceil(np.ceil(frames / 2) / 2))


def plain_inputs(loaded: LoadedModel, asked: Any) -> dict[str, Any]:
    """What the processor itself makes of one example; Voxtral's has no call for sounds, its prompt is written here."""
    processor: Any = loaded.processor
    heard = [samples_of(ref) for ref in asked.sounds]
    if loaded.spec.family != "voxtral":
        out = processor(text=[MARK[loaded.spec.family] * len(heard) + asked.text], audio=heard, return_tensors="pt")
        return {name: value for name, value in out.items() if name != "token_type_ids"}
    chunks = [np.pad(x, (0, -len(x) % 32_000)).reshape(-1, 32_000) for x in heard]
    spectrograms = processor.feature_extractor(list(np.concatenate(chunks)), sampling_rate=16_000, return_tensors="pt")
    text = "".join("[BEGIN_AUDIO]" + "[AUDIO]" * (25 * len(one)) for one in chunks) + asked.text
    return {**loaded.tokenizer(text, return_tensors="pt"), "input_features": spectrograms["input_features"]}


def plain_outputs(loaded: LoadedModel, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Block outputs; of Gemma 3n's four streams the first."""
    seen: list[torch.Tensor] = []
    blocks = loaded.model.model.language_model.layers
    handles = [
        block.register_forward_hook(lambda m, args, out: seen.append((out[0] if out.ndim == 4 else out).clone()))
        for block in blocks
    ]
    with torch.no_grad():
        loaded.model(**{name: x for name, x in inputs.items() if name != "token_type_ids"})
    for handle in handles:
        handle.remove()
    return seen


TWO = (example("What is heard here?", sound(0.9)), example("And now? Is it a cat?", sound(0.5, seed=1)))


@pytest.mark.parametrize("seconds", [(0.9,), (0.5, 1.3), (2.5,)])
def test_tokens_are_the_processors_and_each_has_its_time(loaded: LoadedModel, seconds: tuple[float, ...]) -> None:
    family, text = loaded.spec.family, "The cat is on the table"
    if family == "gemma3n" and max(seconds) > 2:
        seconds = (0.7,)
    asked = example(text, *(sound(s, seed=i) for i, s in enumerate(seconds)))
    sample = encode_example(asked, loaded.bundle)
    plain = plain_inputs(loaded, asked)
    assert sample.input_ids.tolist() == plain["input_ids"][0].tolist()
    is_audio = sample.input_ids == loaded.tokenizer.convert_tokens_to_ids(MARK[family])
    assert ((sample.kind == AUDIO) == is_audio).all()
    if "mm_token_type_ids" in plain:
        assert sample.extra["mm_token_type_ids"].tolist() == plain["mm_token_type_ids"][0].tolist()
    assert sample.time_ms is not None
    longest = max(seconds)  # Gemma 4's processor fills shorter sounds up to the longest, and masks what it filled in
    counts = [n_tokens(family, s) for s in seconds]
    assert is_audio.sum() == sum(counts), longest
    assert sample.time_ms[is_audio].tolist() == [EACH_MS[family] * i for n in counts for i in range(n)]
    assert sample.tile[is_audio].tolist() == [i for i, n in enumerate(counts) for _ in range(n)]
    assert (sample.time_ms[~is_audio] == -1).all()
    kinds = np.array(TOKEN_KINDS)[sample.kind]
    names = np.array(loaded.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist()))
    assert "".join(names[kinds == "text"]).replace("Ġ", " ").strip() == text


def test_a_chat_has_the_sound_where_the_template_puts_it(loaded: LoadedModel) -> None:
    sample = encode_example(example("The cat", sound(0.9), chat=True), loaded.bundle)
    names = loaded.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    assert names[0] == "<s>"
    assert names.count("<s>") == 1  # BOS is the template's
    assert (sample.kind == AUDIO).sum() == n_tokens(loaded.spec.family, 0.9)
    own = sample.text[sample.text_start :]
    assert own.startswith("The cat")


def test_voxtrals_turns_are_laid_out_as_mistral_common_lays_them_out(tmp_path: Path) -> None:
    """Checked against its own generated template and its audio encoder, version 1.13."""
    model = _LOADED.get("voxtral") or fresh("voxtral", tmp_path)
    one = encode_example(example("The cat", sound(0.9), sound(0.5), chat=True), model.bundle)
    shown = "[BEGIN_AUDIO]" + "[AUDIO]"
    assert one.text == f"<s>[INST]{shown}{shown}The cat[/INST]"
    said = encode_example(example("The cat", sound(0.9), chat=True, system="Listen."), model.bundle)
    assert said.text == f"<s>[SYSTEM_PROMPT]Listen.[/SYSTEM_PROMPT][INST]{shown}The cat[/INST]"
    ids = model.tokenizer.convert_ids_to_tokens(one.input_ids.tolist())
    assert ids[:4] == ["<s>", "[INST]", "[BEGIN_AUDIO]", "[AUDIO]"]
    assert ids[-1] == "[/INST]"


def test_the_vocabulary_that_mistral_publishes_is_read_with_offsets(tmp_path: Path) -> None:
    """tekken.json alone, as Voxtral's folder has it: bytes here, and its special tokens before them."""
    processor, config = voxtral()
    named = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, 24)), "[AUDIO]"]
    named += ["[BEGIN_AUDIO]"]
    pattern = r"[^\r\n\p{L}\p{N}]?[\p{L}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    sizes = {"num_vocab_tokens": 256, "default_vocab_size": 356, "default_num_special_tokens": 100}
    vocabulary = [
        {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)
    ]
    special = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(named)]
    document = {
        "config": {"pattern": pattern, "version": "v11", **sizes},
        "vocab": vocabulary,
        "special_tokens": special,
    }
    (tmp_path / "tekken.json").write_text(json.dumps(document))
    config.save_pretrained(tmp_path)
    processor.feature_extractor.save_pretrained(tmp_path)
    tokenizer, found = read_tokenizer(tmp_path, processed=True)
    encoding = tokenizer("a[AUDIO]b", return_offsets_mapping=True)
    assert encoding["input_ids"] == [100 + ord("a"), 24, 100 + ord("b")]
    assert encoding["offset_mapping"] == [(0, 1), (1, 8), (8, 9)]
    assert found.audio_token == "[AUDIO]"


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.slow) if f == "voxtral" else f for f in FAMILIES])
def test_a_click_moves_the_tokens_of_its_time(family: str, tmp_path: Path) -> None:
    model = fresh(family, tmp_path / family)
    for name, parameter in model.model.named_parameters():  # what mixes times in the tower
        if (
            family != "gemma3n"
            and "audio_tower" in name
            and any(part in name for part in ("out_proj", "post.", "lconv1d", "linear_end"))
        ):
            parameter.data.zero_()
    each = EACH_MS[family] / 1000
    for click in (0.13, 0.42, 0.7):
        # another click in both, since Whisper's spectrogram is scaled by its loudest value
        still, clicked = (example("The cat", sound(0.9, click_s=at, more_s=(0.85,))) for at in (None, click))
        rows = [
            capture(model, batch_of(model, one), sites=["resid_pre"], layers=[0])["resid_pre"][0][0]
            for one in (still, clicked)
        ]
        sample = encode_example(clicked, model.bundle)
        assert sample.time_ms is not None
        moved = (rows[1] - rows[0]).norm(dim=1)
        assert (moved > 0).any()
        if family == "gemma3n":  # a token is the last of four rows that look back: none moves before the click
            at = int(sample.time_ms[int((moved > 1e-6).nonzero()[0])]) / 1000
            assert click - 0.06 <= at <= click + each + 0.06, (click, at)
            continue
        at = int(sample.time_ms[int(moved.argmax())]) / 1000
        assert abs(at + each / 2 - click - 0.01) <= each / 2 + 0.05, (family, click, at)


def test_rows_are_those_of_a_plain_forward_and_neighbours_do_not_reach_them(loaded: LoadedModel) -> None:
    expected = [plain_outputs(loaded, plain_inputs(loaded, one)) for one in TWO]
    alone = capture(loaded, batch_of(loaded, TWO[0]), sites=["resid_post"], layers=range(N_LAYERS))["resid_post"]
    assert all(torch.equal(got, wanted) for got, wanted in zip(alone, expected[0], strict=True))
    for side in ("left", "right"):
        batch = batch_of(loaded, *TWO, side=side)
        states = capture(loaded, batch, sites=["resid_post"], layers=range(N_LAYERS))["resid_post"]
        for row in range(2):
            start, n = batch.starts[row], batch.lengths[row]
            for got, wanted in zip(states, expected[row], strict=True):
                torch.testing.assert_close(got[row, start : start + n], wanted[0], atol=5e-5, rtol=1e-3)


def test_audio_tokens_are_steered_and_no_other_row_moves(loaded: LoadedModel) -> None:
    inputs = plain_inputs(loaded, TWO[0])
    audio = inputs["input_ids"] == loaded.config.audio_token_id
    plain, v = plain_outputs(loaded, inputs), vector(1, width=WIDTH)
    moved = plain[1] + torch.from_numpy(np.float32(0.7) * v.at(1))
    for target in ("audio", "sql: kind = 'audio'"):
        with steercache.steer(loaded, v, layer=1, alpha=0.7, target=target):
            found = plain_outputs(loaded, inputs)
        assert torch.equal(found[1][audio], moved[audio])
        assert torch.equal(found[1][~audio], plain[1][~audio])


def test_branches_are_the_full_steered_forward(loaded: LoadedModel) -> None:
    batch = batch_of(loaded, *TWO)
    cells = [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=directions(1)[0], target=target)
        for target, layer in (("audio", 0), ("text", 1), ("last", 2))
    ]
    for answer in branch(loaded, batch, cells, BranchOptions(max_new_tokens=1, same_batch=True)):
        assert answer.mode == "branch"
        cell = next(one for one in cells if one.key == answer.key)
        assert torch.equal(answer.logits_bv, full_logits(loaded, batch, cell)), answer.key


def test_a_model_without_its_ears_says_so_and_too_long_sounds_are_named(
    loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    deaf = written(tmp_path_factory)["gemma4"]  # as the large ones, which have no audio tower
    bundle = load_model(manifest_of(deaf), cache_dir=deaf / "cache", device="cpu").bundle
    with pytest.raises(EncodingProblem, match="hears no sounds"):
        encode_example(TWO[0], bundle)
    if loaded.spec.family != "voxtral":
        with pytest.raises(EncodingProblem, match=r"takes 31 s, and the model hears 30 s"):
            encode_example(example("The cat", sound(31.0)), loaded.bundle)


def test_a_batch_of_sounds_and_pictures_and_texts_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.models.tiny_images import picture

    folder = tmp_path_factory.mktemp("mixed")
    model = _LOADED.get("gemma4") or fresh("gemma4", folder)
    asked = [TWO[0], example("The cat", images=(picture(50, 80),)), example("Two dogs ran")]
    samples = [encode_example(one, model.bundle) for one in asked]
    batch = pad_batch(samples, padding_side="left", pad_id=0)
    states = capture(model, batch, sites=["resid_post"], layers=[1])["resid_post"][0]
    for row, one in enumerate(samples):
        alone = capture(model, pad_batch([one], padding_side="left", pad_id=0), sites=["resid_post"], layers=[1])
        got = states[row, batch.starts[row] :]
        torch.testing.assert_close(got, alone["resid_post"][0][0], atol=5e-5, rtol=1e-3)
