"""The effect on the next token: equal to a plain loop, beaten by nothing where a direction is planted."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from steercache.core.errors import UsageError
from steercache.models.families import family_of
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.steering.effects import WordMassPlan, random_directions, word_mass_effect
from steercache.steering.mass_curves import summarise
from steercache.steering.word_tokens import word_tokens
from tests.steering.tiny import tiny_model, vector

LEXICON = [
    "<pad>",
    "<s>",
    "The",
    "one",
    "two",
    "three",
    "dog",
    "cat",
    "sat",
    "ran",
    "on",
    "under",
    "we",
    "saw",
    "found",
    "a",
]


def word_tokenizer() -> Any:
    """Words to ids, with a word of two pieces (`twenty`) to leave out."""
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(LEXICON)}))
    backend.normalizer = normalizers.Replace("twenty", "one two")
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>")


def loaded(family: str = "llama") -> LoadedModel:
    model = tiny_model(family)
    bundle = TokenizerBundle(
        tokenizer=word_tokenizer(),
        config=model.config,
        family=family_of(model.config.to_dict()),
        spec=SimpleNamespace(  # type: ignore[arg-type]
            fingerprint="f" * 64, dtype="float32", tokenizer_digest="t" * 64, vocab_size=len(LEXICON), quantised=None
        ),
        special_ids=(0, 1),
    )
    return LoadedModel(model=model, bundle=bundle)


PLAN = WordMassPlan(
    words=("one", "two", "three", "twenty"),
    prompts=("we saw a dog", "The cat sat on", "a cat ran"),
    layer=1,
    alphas=(0.5, 2.0),
    n_random=3,
)


def adding(delta: torch.Tensor) -> Any:
    """A hook that adds to every token but the first and the last."""

    def hook(module: Any, args: Any, out: Any) -> Any:
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[:, 1:-1] += delta
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    return hook


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@torch.no_grad()
def test_masses_are_those_of_one_prompt_at_a_time(family: str) -> None:
    model, v = loaded(family), vector(1, scale=2.0)
    effect = word_mass_effect(model, v, PLAN)
    directions = [v, *random_directions(v, layer=1, n=3, seed=0)]
    blocks = model.model.get_submodule(model.family.blocks)
    for d, direction in enumerate(directions):
        for a, alpha in enumerate((0.0, 0.5, 2.0)):
            handle = blocks[1].register_forward_hook(adding(torch.from_numpy(direction.at(1) * np.float32(alpha))))
            for p, prompt in enumerate(PLAN.prompts):
                ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
                mass = model.model(ids).logits[0, -1].softmax(-1)[[3, 4, 5]].sum()
                assert effect.mass_vap[d, a, p] == pytest.approx(float(mass), rel=1e-4)
            handle.remove()


def test_words_of_several_tokens_are_left_out_and_named() -> None:
    assert word_tokens(loaded(), PLAN.words) == ({"one": (3,), "two": (4,), "three": (5,)}, ("twenty",))
    with pytest.raises(UsageError, match="none of the words"):
        word_tokens(loaded(), ["twenty"])


def test_a_direction_towards_the_words_beats_every_random_one() -> None:
    model = loaded()
    rows = model.model.lm_head.weight[[3, 4, 5]].detach().mean(0).numpy()
    v = replace(vector(2), values=(rows / np.linalg.norm(rows))[None].astype(np.float32))
    plan = replace(PLAN, layer=2, alphas=(20.0,), target="last", n_random=20)
    none, full = summarise(word_mass_effect(model, v, plan))
    assert none.mass == none.random_low == none.random_high
    assert full.mass > full.random_high
    assert full.p_random == pytest.approx(1 / 21)
    assert full.low <= full.mass <= full.high


def test_random_directions_have_the_vectors_norm_and_differ() -> None:
    v = vector(1, 2)
    found = random_directions(v, layer=2, n=20, seed=0)
    norms = [np.linalg.norm(r.at(2)) for r in found]
    np.testing.assert_allclose(norms, np.linalg.norm(v.at(2)), rtol=1e-5)
    assert len({r.vector_id for r in found}) == 20
    assert found[0].vector_id == random_directions(v, layer=2, n=1, seed=0)[0].vector_id
    assert found[0].vector_id != random_directions(v, layer=2, n=1, seed=1)[0].vector_id


def test_every_setting_is_a_cell_and_every_prompt_an_answer() -> None:
    effect = word_mass_effect(loaded(), vector(1), PLAN)
    assert len(effect.cells) == 1 + 4 * 2 == len({c.cell_id for c in effect.cells})
    assert len(effect.answers) == len(effect.cells) * 3
    plain = {c.cell_id for c in effect.cells if c.vector_id is None}
    assert {(a.cell_id in plain, a.mode) for a in effect.answers} == {(True, "full"), (False, "branch")}
    assert effect.cells[0].vector_id is None
    by_cell = {c.cell_id: [a.score for a in effect.answers if a.cell_id == c.cell_id] for c in effect.cells}
    strongest = next(c for c in effect.cells if c.vector_id == vector(1).vector_id and c.alpha == 2.0)
    np.testing.assert_array_equal(by_cell[strongest.cell_id], effect.mass_vap[0, 2])
    assert effect.plan.manifest()["alphas"] == [0.5, 2.0]
