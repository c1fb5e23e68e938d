"""Tokens, offsets, anchors and controls against a computation over bytes that knows nothing of offset mappings."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import UsageError
from steercache.core.examples import TOKEN_KINDS, EncodedSample, Example, ImageRef, Labels
from steercache.models.load import load_bundle
from steercache.models.spec import TokenizerBundle
from steercache.trace import tokens
from steercache.trace.encode import EncodingProblem, encode_example
from tests.models.real import SMOLLM2, shared_cache
from tests.models.tiny import manifest_of, write_tiny

WORDS = [
    "The",
    "cat",
    "on",
    "next",
    "to",
    "in",
    "front",
    "of",
    "naïve",
    "café",
    "🙂",
    "👩‍👩‍👧",
    "日本語",
    "Straße",
    "don't",
    "é",
    "3",
    "the",
]


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> TokenizerBundle:
    return load_bundle(SMOLLM2, cache_dir=shared_cache(request.config))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TokenizerBundle:
    folder = write_tiny("llama", tmp_path_factory.mktemp("llama"))
    return load_bundle(manifest_of(folder), cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> TokenizerBundle:
    folder = write_tiny("llama", tmp_path_factory.mktemp("bos"), bos=True)
    return load_bundle(manifest_of(folder), cache_dir=folder / "cache")


def example(text: str, *anchors: tuple[int, int], **fields: Any) -> Example:
    return Example(dataset="d", place="d.jsonl:7", text=text, labels=Labels(anchors=anchors), **fields)


def byte_of_letter() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the other bytes are counted up from 256."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def characters_of_tokens(text: str, sample: EncodedSample, tokenizer: Any) -> list[set[int]]:
    """For every token the characters that its bytes belong to, by laying the tokens' bytes end to end."""
    letters, specials = byte_of_letter(), set(tokenizer.get_added_vocab())
    char_of_byte = [i for i, char in enumerate(text) for _ in char.encode()]
    at, found = 0, []
    for piece in tokenizer.convert_ids_to_tokens(sample.input_ids.tolist()):
        n_bytes = len(piece.encode()) if piece in specials else len([letters[c] for c in piece])
        found.append({char_of_byte[b] for b in range(at, at + n_bytes)})
        at += n_bytes
    assert at == len(char_of_byte)
    return found


def anchored(chars: list[set[int]], anchors: list[tuple[int, int]]) -> list[bool]:
    inside = {c for start, end in anchors for c in range(start, end)}
    return [bool(c & inside) for c in chars]


@st.composite
def sentences(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """Words with blanks of several kinds between them, and anchors of one to three neighbouring words."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=10))
    text, spans = "", []
    for word in words:
        spans.append((len(text), len(text) + len(word)))
        text += word + draw(st.sampled_from([" ", "  ", ", ", "\n", " \t", "-"]))
    firsts = draw(st.lists(st.integers(1, len(words) - 1), max_size=2, unique=True))
    anchors = [(spans[i][0], spans[min(i + draw(st.integers(0, 2)), len(words) - 1)][1]) for i in firsts]
    return text + draw(st.sampled_from(["", ".", "end"])), anchors


@settings(max_examples=150, deadline=None)
@given(drawn=sentences(), chat=st.booleans(), system=st.sampled_from([None, "Be kind. The cat"]))
def test_anchors_and_controls_are_those_of_the_tokens_bytes(
    smollm2: TokenizerBundle, drawn: tuple[str, list[tuple[int, int]]], chat: bool, system: str | None
) -> None:
    text, anchors = drawn
    asked = example(text, *anchors, chat=chat, system=system if chat else None)
    sample = encode_example(asked, smollm2)
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": text})
    template = smollm2.tokenizer.apply_chat_template
    whole = template(turns, tokenize=False, add_generation_prompt=True) if chat else text
    assert sample.text == whole
    start = sample.text_start
    assert whole[start : start + len(text)] == text
    # the generation prompt follows the turn: the last place where the text could stand
    assert start == whole.rfind(text + "<|im_end|>") if chat else start == 0
    chars = characters_of_tokens(whole, sample, smollm2.tokenizer)
    expected = anchored(chars, [(a + start, b + start) for a, b in anchors])
    assert sample.is_anchor.tolist() == expected
    pieces = smollm2.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    special = [piece.startswith("<|") and piece.endswith("|>") for piece in pieces]
    own = [bool(c & set(range(start, start + len(text)))) for c in chars]
    kinds = ["special" if s else "text" if o else "template" for s, o in zip(special, own, strict=True)]
    assert [TOKEN_KINDS[k] for k in sample.kind] == kinds
    control = [
        bool(anchors) and i > 0 and not a and kind == "text"
        for i, (a, kind) in enumerate(zip(expected, kinds, strict=True))
    ]
    assert sample.is_control.tolist() == control
    assert not (sample.is_anchor & sample.is_control).any()


@settings(max_examples=100, deadline=None)
@given(drawn=sentences())
def test_spans_hold_a_tokens_characters_without_blanks_at_the_ends(
    smollm2: TokenizerBundle, drawn: tuple[str, list[tuple[int, int]]]
) -> None:
    text, _ = drawn
    sample = encode_example(example(text), smollm2)
    for chars, start, end in zip(
        characters_of_tokens(text, sample, smollm2.tokenizer), sample.char_start, sample.char_end, strict=True
    ):
        piece = text[min(chars) : max(chars) + 1]
        assert text[start:end] == (piece if piece.isspace() else piece.strip())


@settings(max_examples=100, deadline=None)
@given(text=st.text(min_size=1, max_size=40))
def test_any_text_is_tokenized_as_the_tokenizer_does_or_named(smollm2: TokenizerBundle, text: str) -> None:
    tokenizer = smollm2.tokenizer
    ids = tokenizer(text)["input_ids"]
    if not ids:  # control characters that this vocabulary has no token for
        with pytest.raises(EncodingProblem, match="has no tokens"):
            encode_example(example(text), smollm2)
        return
    assert encode_example(example(text), smollm2).input_ids.tolist() == ids
    prompt = encode_example(example(text, chat=True), smollm2)
    turn = [{"role": "user", "content": text}]
    assert prompt.input_ids.tolist() == tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]


def test_every_token_of_a_multi_word_anchor_is_an_anchor(smollm2: TokenizerBundle) -> None:
    text = "The uncharacteristically small cat sat in front of the box"
    long, phrase = text.index("unchar"), text.index("in front of")
    sample = encode_example(
        example(text, (long, long + len("uncharacteristically")), (phrase, phrase + len("in front of"))), smollm2
    )
    pieces = np.array(smollm2.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist()))
    marked = "".join(pieces[sample.is_anchor]).replace("Ġ", " ")
    assert marked == " uncharacteristically in front of"
    assert "".join(pieces[sample.is_control]).replace("Ġ", " ") == " small cat sat the box"  # The is position 0


def test_a_word_inside_another_word_marks_the_token_that_holds_it_only(smollm2: TokenizerBundle) -> None:
    text = "Standing on the iron table"
    sample = encode_example(example(text, (9, 11)), smollm2)
    assert [text[a:b] for a, b in zip(sample.char_start, sample.char_end, strict=True) if 9 <= a < 11] == ["on"]
    assert sample.is_anchor.sum() == 1


def test_a_bos_is_special_and_makes_room_for_an_anchor_in_front(
    with_bos: TokenizerBundle, tiny: TokenizerBundle
) -> None:
    asked = example("The cat is on the table", (0, 3))
    sample = encode_example(asked, with_bos)
    assert TOKEN_KINDS[sample.kind[0]] == "special"
    assert (sample.char_start[0], sample.char_end[0]) == (-1, -1)
    assert not sample.is_anchor[0]
    assert sample.is_anchor[1]
    assert not sample.is_control[0]
    with pytest.raises(EncodingProblem, match="first token") as caught:
        encode_example(asked, tiny)
    assert (caught.value.kind, caught.value.place) == ("anchor_first", "d.jsonl:7")


def test_position_0_is_no_control_even_without_a_bos(tiny: TokenizerBundle) -> None:
    sample = encode_example(example("The cat is on", (11, 13)), tiny)
    assert TOKEN_KINDS[sample.kind[0]] == "text"
    assert not sample.is_control[0]
    assert sample.is_control[1]


def test_without_anchors_there_are_no_controls(tiny: TokenizerBundle) -> None:
    assert not encode_example(example("The cat is on the table"), tiny).is_control.any()


@pytest.mark.parametrize("span", [(3, 3), (5, 2), (-2, 2), (8, 99), (40, 44)])
def test_an_anchor_outside_the_text_is_named(span: tuple[int, int], tiny: TokenizerBundle) -> None:
    with pytest.raises(EncodingProblem, match="no token holds the anchor") as caught:
        encode_example(example("The cat is on", span), tiny)
    assert caught.value.kind == "anchor_missing"


def test_a_completion_follows_the_prompt_and_carries_no_anchor(smollm2: TokenizerBundle) -> None:
    plain = encode_example(example("The cat is on", (11, 13), completion=" on it"), smollm2)
    assert plain.text == "The cat is on on it"
    assert plain.is_anchor.sum() == 1
    chat = encode_example(example("Where is it?", completion="On it", chat=True), smollm2)
    assert chat.text.endswith("<|im_start|>assistant\nOn it")


def test_a_sample_longer_than_allowed_is_refused_and_its_lost_anchor_named(tiny: TokenizerBundle) -> None:
    text = "The cat is on the table next to the box"
    n = encode_example(example(text), tiny).n_tokens
    assert encode_example(example(text), tiny, max_tokens=n).n_tokens == n
    with pytest.raises(EncodingProblem, match=f"^d.jsonl:7: {n} tokens, {n - 1} are allowed\n") as caught:
        encode_example(example(text, (8, 10)), tiny, max_tokens=n - 1)
    assert caught.value.kind == "too_long"
    with pytest.raises(EncodingProblem, match="an anchor lies beyond"):
        encode_example(example(text, (36, 39)), tiny, max_tokens=n - 1)


def test_the_models_own_limit_holds_without_another(tiny: TokenizerBundle) -> None:
    with pytest.raises(EncodingProblem, match="64 are allowed"):
        encode_example(example("cat " * 100), tiny, max_tokens=1000)


def test_a_tokenizer_saved_with_truncation_and_padding_cuts_nothing(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path)
    bundle = load_bundle(manifest_of(folder), cache_dir=tmp_path / "cache")
    plain = encode_example(example("The cat is on the table"), bundle).input_ids
    bundle.tokenizer.backend_tokenizer.enable_truncation(3)
    bundle.tokenizer.backend_tokenizer.enable_padding(length=50)
    bundle.tokens.clear()
    assert encode_example(example("The cat is on the table"), bundle).input_ids.tolist() == plain.tolist()


def test_the_tokens_of_a_text_are_kept_up_to_a_bound(tiny: TokenizerBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = dataclasses.replace(tiny, tokens={})
    monkeypatch.setattr(tokens, "KEPT_TEXTS", 2)
    monkeypatch.setattr(tokens, "KEPT_LENGTH", 8)
    texts = ["a cat", "the cat is on the table and the dog is under it", "a dog", "a table", "a cat"]
    with_anchor = encode_example(example("a cat", (2, 5)), bundle)
    samples = [encode_example(example(text), bundle) for text in texts]
    assert [text for text, _ in bundle.tokens] == ["a cat", "a dog"]
    assert with_anchor.is_anchor.any()
    for text, sample in zip(texts, samples, strict=True):
        fresh = encode_example(example(text), dataclasses.replace(tiny, tokens={}))
        assert sample.sample_id == fresh.sample_id
        for name in ("input_ids", "char_start", "char_end", "kind", "is_anchor", "is_control"):
            assert np.array_equal(getattr(sample, name), getattr(fresh, name)), name


def with_template(bundle: TokenizerBundle, template: str | None) -> TokenizerBundle:
    tokenizer = type(bundle.tokenizer)(tokenizer_object=bundle.tokenizer.backend_tokenizer, chat_template=template)
    return dataclasses.replace(bundle, tokenizer=tokenizer, tokens={})


def test_a_template_that_trims_the_turn_keeps_anchors_where_they_are(tiny: TokenizerBundle) -> None:
    trimming = with_template(tiny, "{% for m in messages %}<|user|>{{ m['content'] | trim }}<|end|>{% endfor %}")
    sample = encode_example(example("  The cat is on \n", (13, 15), chat=True), trimming)
    assert sample.text == "<|user|>The cat is on<|end|>"
    marked = [sample.text[a:b] for a, b in zip(sample.char_start, sample.char_end, strict=True)]
    assert [m for m, is_anchor in zip(marked, sample.is_anchor, strict=True) if is_anchor] == ["on"]


def test_a_template_that_writes_something_else_each_day_is_followed(tiny: TokenizerBundle) -> None:
    starts = []
    for day in ("Monday", "Tuesday", "Wednesday"):
        template = "Today is " + day + ". {% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
        bundle = with_template(tiny, template)  # shares what the first day's form was kept in
        sample = encode_example(example("The cat is on the table", (11, 13), chat=True), bundle)
        assert sample.text[sample.text_start :] == "The cat is on the table"
        starts.append(sample.text_start)
    assert len(set(starts)) == 3


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages %}{{ m['content'][:8] }}{% endfor %}",
        "nothing of it",
        "{{ raise_exception('System role not supported') }}",
        "{{ nonsense.deeper.still }}",
    ],
)
def test_a_template_that_changes_or_refuses_the_text_is_named(template: str, tiny: TokenizerBundle) -> None:
    with pytest.raises(EncodingProblem) as caught:
        encode_example(example("The cat is on the table", chat=True, system="x"), with_template(tiny, template))
    assert caught.value.kind == "template"


def test_a_chat_without_a_template_says_how_to_give_one(tiny: TokenizerBundle) -> None:
    with pytest.raises(UsageError, match="chat_template: FILE"):
        encode_example(example("The cat", chat=True), with_template(tiny, None))


def test_text_that_no_encoding_holds_and_no_text_at_all_are_named(tiny: TokenizerBundle) -> None:
    for text, kind in (("half a pair \ud800", "encoding"), ("", "empty")):
        with pytest.raises(EncodingProblem) as caught:
            encode_example(example(text), tiny)
        assert caught.value.kind == kind


def test_pictures_are_refused_by_a_text_model(tiny: TokenizerBundle) -> None:
    with pytest.raises(EncodingProblem, match="reads no pictures"):
        encode_example(example("The cat", images=(ImageRef(name="a.png", load=lambda: b""),)), tiny)


def test_labels_do_not_change_what_reaches_the_model(tiny: TokenizerBundle) -> None:
    bare, labelled = example("The cat is on"), example("The cat is on", (11, 13))
    assert encode_example(bare, tiny).sample_id == encode_example(labelled, tiny).sample_id
    assert encode_example(example("The cat is in"), tiny).sample_id != encode_example(bare, tiny).sample_id
