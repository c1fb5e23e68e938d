"""What the training of *demo* rests on: packing, the blocks by hand and the low-rank update, on a small random model."""

from typing import Any

import numpy as np
import pytest
import torch

from bench.zoo.demo.blocks import run_blocks
from bench.zoo.demo.packing import pack, tokenizer_call
from bench.zoo.demo.targets import cell_of, make_dictionary, make_targets, token_targets
from bench.zoo.lessons import lesson
from bench.zoo.tiny.tokens import train_tokenizer
from steercache.data.scenes import make_crowd, make_pairs
from steercache.zoo.demo.lora import FIRST_LAYER, GAIN, add_low_rank, merge_low_rank
from steercache.zoo.demo.shape import N_CELLS, N_IMAGE_TOKENS, NEW_TOKENS


@pytest.fixture(scope="module")
def tokenize() -> Any:
    tokenizer = train_tokenizer(300)
    tokenizer.add_special_tokens({"additional_special_tokens": [*NEW_TOKENS, "<|im_start|>", "<|im_end|>"]})
    return tokenizer_call(tokenizer)


@pytest.fixture
def small() -> Any:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    family: Any = LlamaModel
    config = LlamaConfig(
        vocab_size=700,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=FIRST_LAYER + 3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
    )
    return family._from_config(config).eval()


def lessons(n: int = 3) -> list[Any]:
    rng = np.random.default_rng(5)
    return [lesson(rng, crowd=i % 2 == 1, shown=0.6) for i in range(n)]


def packed(tokenize: Any) -> Any:
    return pack(lessons(), tokenize, dtype=torch.float32)


def test_a_packed_question_gets_the_states_that_it_gets_alone(tokenize: Any, small: Any) -> None:
    rows = lessons()
    batch = pack(rows, tokenize, dtype=torch.float32)
    together = small(
        input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False
    ).last_hidden_state
    for one in batch.asked:
        alone = pack([(rows[one.row][0], [one.turn])], tokenize, dtype=torch.float32)
        state = small(input_ids=alone.input_ids, use_cache=False).last_hidden_state  # the plain causal way
        torch.testing.assert_close(
            together[one.row, list(one.answer_pos)], state[0, list(alone.asked[0].answer_pos)], atol=1e-5, rtol=1e-4
        )


def test_names_options_and_answers_stand_where_the_packing_says(tokenize: Any) -> None:
    batch = packed(tokenize)
    back = {idx: word for word, idx in train_tokenizer(300).get_vocab().items()}
    for one in batch.asked:
        ids = batch.input_ids[one.row]
        for pos, word in zip(one.name_pos, [one.turn.body[at : at + 3] for at in one.turn.name_at], strict=True):
            assert back[int(ids[pos])].removeprefix("Ġ").startswith(word[:2])
        if one.option_pos is not None:
            assert one.turn.question.word.startswith(back[int(ids[one.option_pos])].removeprefix("Ġ")[:2])
        assert [int(ids[pos]) for pos in one.answer_pos[1:]] == list(one.answer_ids[:-1])


def test_a_name_means_the_image_tokens_of_its_items(tokenize: Any) -> None:
    batch = packed(tokenize)
    for one in batch.asked:
        wanted = {cell_of(item.x, item.y) for item in one.turn.question.names}
        cells = {divmod(cell - batch.image_start, N_CELLS) for cells in one.name_cells for cell in cells}
        assert cells == wanted


def test_the_blocks_by_hand_are_those_of_the_model(tokenize: Any, small: Any) -> None:
    import copy

    taught = copy.deepcopy(small)
    low_rank = add_low_rank(taught, seed=0)
    with torch.no_grad():
        for module in low_rank.values():
            module.b.normal_(0, 0.05)
    merge_low_rank(small, {f"{name}.{p}": getattr(m, p).detach() for name, m in low_rank.items() for p in ("a", "b")})
    batch = packed(tokenize)
    embeds = small.embed_tokens(batch.input_ids).detach()
    given = {"mask": batch.mask, "position_ids": batch.position_ids}
    run = run_blocks(taught, embeds=embeds, **given, read=(FIRST_LAYER,), watch=(FIRST_LAYER + 1,))
    whole = small(
        inputs_embeds=embeds,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        output_hidden_states=True,
        use_cache=False,
    )
    torch.testing.assert_close(run.last, whole.last_hidden_state, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(run.states[FIRST_LAYER], whole.hidden_states[FIRST_LAYER + 1], atol=2e-5, rtol=1e-4)
    looks = run.looks[FIRST_LAYER + 1]
    torch.testing.assert_close(looks.sum(-1), torch.ones(looks.shape[:3]))
    assert float(looks[(batch.mask < -1).expand_as(looks)].max().detach()) == 0.0
    run.last.sum().backward()
    assert all(module.b.grad is not None for module in low_rank.values())


def test_the_merged_weights_do_what_the_low_rank_maps_did(small: Any) -> None:
    import copy

    taught = copy.deepcopy(small)
    low_rank = add_low_rank(taught, seed=0)
    with torch.no_grad():
        for module in low_rank.values():
            module.b.normal_(0, 0.05)
    shipped = {f"{name}.{part}": getattr(m, part).detach() for name, m in low_rank.items() for part in ("a", "b")}
    before = small.layers[0].mlp.up_proj.weight.clone()
    merge_low_rank(small, shipped)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(
        small(input_ids=ids).last_hidden_state, taught(input_ids=ids).last_hidden_state, atol=1e-4, rtol=1e-3
    )
    assert torch.equal(small.layers[0].mlp.up_proj.weight, before), "blocks below FIRST_LAYER stay as they were"
    name = f"layers.{FIRST_LAYER}.mlp.up_proj"
    update = GAIN * shipped[f"{name}.b"] @ shipped[f"{name}.a"]
    changed = small.layers[FIRST_LAYER].mlp.up_proj.weight - taught.layers[FIRST_LAYER].mlp.up_proj.frozen.weight
    torch.testing.assert_close(changed, update, atol=1e-6, rtol=1e-5)


def test_targets_say_what_is_centred_in_which_cell() -> None:
    rng = np.random.default_rng(0)
    scenes = [make_pairs(rng), make_crowd(rng)]
    targets = make_targets(scenes)
    for i, scene in enumerate(scenes):
        assert int((targets.cell_shape[i] >= 0).sum()) == len(scene.items)
        for item in scene.items:
            row, column = cell_of(item.x, item.y)
            x, y = targets.cell_xy[i, row * N_CELLS + column].tolist()
            assert (x, y) == pytest.approx((2 * item.x - 1, 2 * item.y - 1))
    assert targets.cell_shape.shape == (2, N_IMAGE_TOKENS)


def test_place_and_ground_directions_are_orthogonal_to_every_word() -> None:
    embedding = torch.randn(100, 64)
    words = make_dictionary(embedding, list(range(8)), list(range(8, 16)), seed=1)
    named = torch.cat([words.colour_kd, words.shape_kd])
    for direction in (words.x_d, words.y_d, words.ground_d):
        assert float((named @ direction).abs().max()) < 1e-5
    rng = np.random.default_rng(0)
    tokens = token_targets(make_targets([make_pairs(rng)]), words)
    assert tokens.shape == (1, N_IMAGE_TOKENS, 64)
