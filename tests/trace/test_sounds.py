"""Sounds in prompts: tokens, kinds, times, values and steering of Qwen2-Audio, against its processor and plain hooks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.core.examples import TOKEN_KINDS, EncodedSample, Example, Labels, SoundRef
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import ROUNDING, BranchCell
from steercache.trace.batches import PaddedBatch, pad_batch
from steercache.trace.capture import capture, model_inputs
from steercache.trace.encode import EncodingProblem, encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_audio import N_LAYERS, WIDTH, samples_of, sound, write_tiny_audio
from tests.steering.small import directions
from tests.steering.test_branch import steered
from tests.steering.tiny import vector

AUDIO = TOKEN_KINDS.index("audio")
LAYERS = range(N_LAYERS)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = write_tiny_audio(tmp_path_factory.mktemp("audio"))
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu")


def example(text: str, *sounds: SoundRef, **fields: Any) -> Example:
    return Example(dataset="d", place="d.jsonl:3", text=text, sounds=sounds, **fields)


def prompt_of(loaded: LoadedModel, asked: Example) -> str:
    """The prompt as the model's documentation writes it."""
    if asked.chat:
        content = [*[{"type": "audio"}] * len(asked.sounds), {"type": "text", "text": asked.text}]
        turns = [{"role": "user", "content": content}]
        return str(loaded.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))  # type: ignore[union-attr]
    return "<|audio_bos|><|AUDIO|><|audio_eos|>" * len(asked.sounds) + asked.text


def plain_inputs(loaded: LoadedModel, asked: Example) -> Any:
    """What the processor itself makes of an example."""
    processor: Any = loaded.processor
    heard = [samples_of(ref) for ref in asked.sounds]
    return processor(text=[prompt_of(loaded, asked)], audio=heard, sampling_rate=16_000, return_tensors="pt")


def plain_outputs(loaded: LoadedModel, inputs: Any) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    blocks = loaded.model.model.language_model.layers
    handles = [block.register_forward_hook(lambda m, args, out: seen.append(out.clone())) for block in blocks]
    with torch.no_grad():
        loaded.model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def batch_of(loaded: LoadedModel, *asked: Example, side: Any = "left") -> PaddedBatch:
    return pad_batch([encode_example(one, loaded.bundle) for one in asked], padding_side=side, pad_id=0)


TWO = (example("What is heard here?", sound(0.9)), example("And now? Is it a cat?", sound(0.5, seed=1)))


@pytest.mark.parametrize("chat", [False, True])
def test_tokens_and_kinds_are_the_processors_and_text_is_where_the_spans_say(loaded: LoadedModel, chat: bool) -> None:
    text = "The cat is on the table"
    asked = example(text, sound(0.9), chat=chat, labels=Labels(anchors=((11, 13),)))
    sample = encode_example(asked, loaded.bundle)
    plain = plain_inputs(loaded, asked)
    assert sample.input_ids.tolist() == plain["input_ids"][0].tolist()
    assert ((sample.kind == AUDIO) == (plain["input_ids"][0] == loaded.config.audio_token_id).numpy()).all()
    pieces = [sample.text[a:b] for a, b in zip(sample.char_start, sample.char_end, strict=True)]
    assert "".join(p for p, anchor in zip(pieces, sample.is_anchor, strict=True) if anchor) == "on"
    names = np.array(loaded.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist()))
    kinds = np.array(TOKEN_KINDS)[sample.kind]
    assert {names[kinds == "audio"][0]} == set(names[kinds == "audio"])
    assert set(kinds[[name.startswith("<|audio_") for name in names]]) == {"special"}
    assert "".join(names[kinds == "text"]).replace("Ġ", " ").strip() == text


@pytest.mark.parametrize("seconds", [0.3, 0.9, 2.0])
def test_a_token_stands_for_40_milliseconds_and_times_count_from_each_sounds_beginning(
    loaded: LoadedModel, seconds: float
) -> None:
    sample = encode_example(example("The cat", sound(seconds), sound(0.4, seed=1)), loaded.bundle)
    assert sample.time_ms is not None
    times = sample.time_ms[sample.kind == AUDIO]
    first = round(seconds * 1000) // 40
    assert times.tolist() == [40 * i for i in range(first)] + [40 * i for i in range(10)]
    assert sample.tile[sample.kind == AUDIO].tolist() == [0] * first + [1] * 10
    assert (sample.time_ms[sample.kind != AUDIO] == -1).all()
    assert len(sample.image_digests) == 2


def test_a_click_moves_the_tokens_of_its_time(tmp_path: Path) -> None:
    folder = write_tiny_audio(tmp_path)
    loaded = load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu")
    for name, parameter in loaded.model.named_parameters():  # what attends to other times in the tower
        if "audio_tower" in name and "out_proj" in name:
            parameter.data.zero_()
    for click in (0.22, 0.5, 1.0):
        still, clicked = (example("The cat", sound(1.2, click_s=at)) for at in (None, click))
        rows = [
            capture(loaded, batch_of(loaded, one), sites=["resid_pre"], layers=[0])["resid_pre"][0][0]
            for one in (still, clicked)
        ]
        sample = encode_example(clicked, loaded.bundle)
        assert sample.time_ms is not None
        moved = (rows[1] - rows[0]).norm(dim=1)
        assert abs(int(sample.time_ms[int(moved.argmax())]) / 1000 + 0.02 - click) <= 0.05


def test_rows_are_those_of_a_plain_forward_and_neighbours_do_not_reach_them(loaded: LoadedModel) -> None:
    for side in ("left", "right"):
        batch = batch_of(loaded, *TWO, side=side)
        states = capture(loaded, batch, sites=["resid_post"], layers=LAYERS)["resid_post"]
        for row, one in enumerate(TWO):
            start, n = batch.starts[row], batch.lengths[row]
            for got, expected in zip(states, plain_outputs(loaded, plain_inputs(loaded, one)), strict=True):
                torch.testing.assert_close(got[row, start : start + n], expected[0], atol=5e-5, rtol=1e-3)
    alone = batch_of(loaded, TWO[0])
    states = capture(loaded, alone, sites=["resid_post"], layers=LAYERS)["resid_post"]
    for got, expected in zip(states, plain_outputs(loaded, plain_inputs(loaded, TWO[0])), strict=True):
        assert torch.equal(got, expected)


def test_audio_tokens_are_steered_and_no_other_row_moves(loaded: LoadedModel) -> None:
    inputs = plain_inputs(loaded, TWO[0])
    ids = inputs["input_ids"].numpy()
    audio = ids == loaded.config.audio_token_id
    text = ~audio & ~np.isin(ids, loaded.bundle.special_ids)
    text[:, -1] = False
    plain, v = plain_outputs(loaded, inputs), vector(1, width=WIDTH)
    moved = plain[1] + torch.from_numpy(np.float32(0.7) * v.at(1))
    for target, rows in (("audio", audio), ("text", text), ("both", audio | text)):
        hit = torch.from_numpy(rows)
        with steercache.steer(loaded, v, layer=1, alpha=0.7, target=target):
            found = plain_outputs(loaded, inputs)
        assert torch.equal(found[1][hit], moved[hit]), target
        assert torch.equal(found[1][~hit], plain[1][~hit]), target
        assert not torch.equal(found[2], plain[2]), target


@pytest.mark.parametrize("side", ["left", "right"])
def test_branches_are_the_full_steered_forward(loaded: LoadedModel, side: str) -> None:
    batch = batch_of(loaded, *TWO, side=side)
    vectors = directions(2)
    cells = [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=delta, target=target)
        for target, layer, delta in (("audio", 0, vectors[0]), ("text", 1, vectors[1]), ("last", 2, vectors[0]))
    ]
    for same_batch in (True, False):
        n_new = 4 if side == "left" else 1
        answers = {
            a.key: a for a in branch(loaded, batch, cells, BranchOptions(max_new_tokens=n_new, same_batch=same_batch))
        }
        for cell in cells:
            expected = last_logits(loaded, batch, cell)
            got = answers[cell.key]
            assert got.mode == "branch"
            if same_batch:
                assert torch.equal(got.logits_bv, expected), cell.key
            else:
                bound = ROUNDING[torch.float32] * expected.abs().amax()
                assert (got.logits_bv - expected).abs().amax() <= bound, cell.key


@torch.no_grad()
def last_logits(loaded: LoadedModel, batch: PaddedBatch, cell: BranchCell) -> torch.Tensor:
    """First-token logits of the whole model with a hook; its forward gives those of every column."""
    with steered(loaded, cell):
        logits = loaded.model(**model_inputs(loaded, batch)).logits
    last = [start + n - 1 for start, n in zip(batch.starts, batch.lengths, strict=True)]
    found: torch.Tensor = logits[torch.arange(len(last)), last].float()
    return found


def refused(sample: Example, loaded: LoadedModel) -> EncodingProblem:
    with pytest.raises(EncodingProblem) as caught:
        encode_example(sample, loaded.bundle)
    return caught.value


def test_sounds_that_cannot_be_heard_are_named(loaded: LoadedModel) -> None:
    broken = SoundRef(name="noises/a.wav", load=lambda: b"RIFF")
    for asked, words in (
        (example("The cat", broken), "the sound noises/a.wav cannot be read"),
        (example("The cat", sound(0.5, rate=8000)), "8000 samples in a second, and the model hears 16000"),
        (example("The cat", sound(2.5)), "takes 2.5 s, and the model hears 2 s"),
        (example("<|AUDIO|><|AUDIO|>The cat", sound(0.5)), "1 sounds, 2 times"),
    ):
        problem = refused(asked, loaded)
        assert problem.kind == "sounds"
        assert words in str(problem)


def test_a_sound_belongs_to_the_samples_id_and_is_read_when_its_batch_runs(loaded: LoadedModel) -> None:
    def sample(seed: int) -> EncodedSample:
        return encode_example(example("The cat", sound(0.5, seed=seed)), loaded.bundle)

    assert sample(0).sample_id == sample(0).sample_id != sample(1).sample_id
    assert sample(0).input_ids.tolist() == sample(1).input_ids.tolist()
