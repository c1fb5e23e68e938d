"""Templates that ask for the time, that fail, and tokenizers with a blank before the text."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from steercache.core.examples import TOKEN_KINDS, Example, Labels
from steercache.models.load import load_bundle
from steercache.models.spec import TokenizerBundle
from steercache.trace.clock import frozen_clock
from steercache.trace.encode import EncodingProblem, encode_example
from tests.models.tiny import TEMPLATE, manifest_of, write_tiny
from tests.models.tiny_images import write_tiny_images

DATED = "{{ strftime_now('%d %b %Y %H:%M') }}\n" + TEMPLATE
DAY = datetime.date(2024, 2, 29)
TURNS = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=256)


def bundle_of(folder: Path, template: str = TEMPLATE, **fields: Any) -> TokenizerBundle:
    bundle = load_bundle(manifest_of(folder, **fields), cache_dir=folder / "cache")
    bundle.tokenizer.chat_template = template
    return bundle


def turn(text: str = "The cat is on it", **fields: Any) -> Example:
    return Example(dataset="d", place="d.jsonl:3", text=text, chat=True, **fields)


def test_a_template_that_writes_the_time_sees_the_date_of_its_manifest(folder: Path) -> None:
    bundle = bundle_of(folder, DATED, template_date="2024-02-29")
    sample = encode_example(turn(), bundle)
    assert sample.text.startswith("29 Feb 2024 00:00\n")
    assert sample.template_date == "2024-02-29"
    assert [TOKEN_KINDS[k] for k in sample.kind[:2]] == ["template", "template"]


def test_without_a_date_in_the_manifest_it_is_that_of_the_day_and_stays_it(folder: Path) -> None:
    bundle = bundle_of(folder, DATED)
    assert bundle.template_date == datetime.date.today()
    tomorrow = dataclasses.replace(bundle, template_date=bundle.template_date + datetime.timedelta(days=1), tokens={})
    first, second = encode_example(turn(), bundle), encode_example(turn(), tomorrow)
    assert first.sample_id != second.sample_id
    assert encode_example(turn(), bundle).sample_id == first.sample_id


def test_a_template_that_does_not_look_at_the_clock_records_no_date(folder: Path) -> None:
    for day in ("2024-02-29", "2030-01-01"):
        sample = encode_example(turn(), bundle_of(folder, template_date=day))
        assert sample.template_date is None
    plain = Example(dataset="d", place="p", text="The cat")
    assert encode_example(plain, bundle_of(folder, DATED)).template_date is None


def test_outside_our_own_prompts_templates_see_the_real_clock(folder: Path) -> None:
    tokenizer = bundle_of(folder, "{{ strftime_now('%Y-%m-%d %f') }}").tokenizer
    with frozen_clock(DAY) as readings:
        frozen = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert (frozen, readings.n) == ("2024-02-29 000000", 1)
    before = datetime.datetime.now()
    real = datetime.datetime.strptime(tokenizer.apply_chat_template(TURNS, tokenize=False), "%Y-%m-%d %f")
    assert real.date() in (before.date(), datetime.date.today())
    assert chat_template_utils.datetime.fromisoformat("2024-02-29").date() == DAY


def test_a_processors_template_sees_the_same_date(tmp_path: Path) -> None:
    folder = write_tiny_images("gemma3", tmp_path)
    bundle = load_bundle(manifest_of(folder, template_date="2024-02-29"), cache_dir=folder / "cache")
    assert bundle.processor is not None
    bundle.processor.chat_template = "{{ strftime_now('%Y') }} " + bundle.processor.chat_template
    sample = encode_example(turn(), bundle)
    assert (sample.text[:5], sample.template_date) == ("2024 ", "2024-02-29")


FAILING = {
    "{{ 1 / 0 }}": "ZeroDivisionError: division by zero",
    "{{ messages[7]['content'] }}": "UndefinedError",
    "{{ messages | length + 'a' }}": "TypeError",
    "{{ 'x'.index('y') }}": "ValueError",
    "{% for m in messages %}{{ m['content'] }}": "TemplateSyntaxError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{{ raise_exception('no system prompts here') }}": "refuses it: no system prompts here",
}


@pytest.mark.parametrize("template", FAILING)
def test_whatever_a_template_raises_names_the_sample_and_the_template(folder: Path, template: str) -> None:
    bundle = dataclasses.replace(bundle_of(folder, template), template_file=Path("own/chat.jinja"))
    with pytest.raises(EncodingProblem) as caught:
        encode_example(turn(), bundle)
    assert (caught.value.kind, caught.value.place) == ("template", "d.jsonl:3")
    assert "the chat template of model tiny (own/chat.jinja)" in caught.value.message
    assert FAILING[template] in caught.value.message
    assert "anchor" not in str(caught.value.hint)


@pytest.mark.parametrize("draw", ["{{ ['a', 'b'] | random }}", "{{ ['a', 'b']|random|upper }}", "{{ lipsum(n=1) }}"])
def test_a_template_that_draws_at_random_is_refused_and_text_about_chance_is_not(folder: Path, draw: str) -> None:
    own = "{{ messages[0]['content'] }}"
    with pytest.raises(EncodingProblem, match="is random") as caught:
        encode_example(turn(), bundle_of(folder, draw + own))
    assert caught.value.kind == "template"
    encode_example(turn(), bundle_of(folder, "choose at random | lipsum: " + own))


SPACED = {"\u2581": 3, "\u2581a": 4, "a": 5, "\u0120": 20, "\u0120a": 21}
CHARACTERS = {c: i for i, c in enumerate("日本語b", start=6)}


def with_blank(bundle: TokenizerBundle, style: str, *, bos: bool) -> TokenizerBundle:
    """The bundle with a tokenizer that puts a blank before every text: as Llama 2, as T5, or as RoBERTa does it."""
    if style == "byte":
        byte_letters = {c: 60 + i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}
        backend = Tokenizer(models.BPE(vocab=byte_letters | SPACED | {"<unk>": 0, "<s>": 1}, merges=[("\u0120", "a")]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        vocab = {"<unk>": 0, "<s>": 1} | SPACED | CHARACTERS
        backend = Tokenizer(models.BPE(vocab=vocab, merges=[("\u2581", "a")], unk_token="<unk>"))
        if style == "llama":
            marks = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
            backend.normalizer = normalizers.Sequence(marks)
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.add_special_tokens(["<s>"])
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    elif style == "byte":
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    return dataclasses.replace(bundle, tokenizer=tokenizer, special_ids=(0, 1), tokens={})


@pytest.mark.parametrize("style", ["llama", "metaspace", "byte"])
@pytest.mark.parametrize("bos", [False, True])
@settings(max_examples=25, deadline=None)
@given(text=st.text("日本語ab ", min_size=1, max_size=8).filter(str.strip))
def test_the_blank_that_a_tokenizer_puts_before_a_text_is_neither_anchor_nor_control(
    folder: Path, style: str, bos: bool, text: str
) -> None:
    bundle = with_blank(bundle_of(folder), style, bos=bos)
    first = next(i for i, c in enumerate(text) if not c.isspace())
    example = Example(
        dataset="d", place="p", text=text, first_position="allow", labels=Labels(anchors=((first, first + 1),))
    )
    sample = encode_example(example, bundle)
    pieces = bundle.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    for i, piece in enumerate(pieces):
        if piece in ("\u2581", "\u0120"):  # no letter in it
            assert not sample.is_anchor[i], (pieces, i)
    at = int(bos)
    if pieces[at] in ("\u2581", "\u0120") and text[0] != " ":
        assert (sample.char_start[at], sample.char_end[at]) == (-1, -1)
        assert not sample.is_control[at]
        assert sample.is_anchor[at + 1]
    assert sample.is_anchor.any()
