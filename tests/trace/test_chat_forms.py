"""Chats about pictures in the forms that published checkpoints write them: the processor's own tokens, and one BOS."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as tf
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from steercache.core.examples import TOKEN_KINDS, Labels
from steercache.models.families import FAMILIES
from steercache.models.load import load_bundle
from steercache.models.tokenizers import special_ids
from steercache.trace.encode import encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_images import GRIDS, picture, written
from tests.trace.test_images import example, pil

# GLM-4V's processor converts its own tensors in a way that numpy 2 warns of; the tests call it as users do.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

_PARTS = (
    "{%- for part in m['content'] %}{%- if part['type'] == 'image' %}{{- 'IMAGE' }}{%- else %}{{- part['text'] }}"
    "{%- endif %}{%- endfor %}"
)
TEMPLATES = {
    # pixtral-12b and Mistral-Small-3.1 write BOS themselves.
    "pixtral": "{{- bos_token }}{%- for m in messages %}{{- '[INST]' }}"
    + _PARTS.replace("IMAGE", "[IMG]")
    + "{{- '[/INST]' }}{%- endfor %}",
    # InternVL3 has no BOS; a line's end follows the picture.
    "internvl": "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' }}"
    + _PARTS.replace("IMAGE", "<IMG_CONTEXT>\n")
    + "{{- '<|im_end|>\n' }}{%- endfor %}{{- '<|im_start|>assistant\n' }}",
    # idefics2-8b: the tokenizer adds BOS; a word that follows the picture gets a blank.
    "idefics2": "{%- for m in messages %}{{- m['role'].capitalize() }}"
    "{%- if m['content'][0]['type'] == 'image' %}{{- ':' }}{%- else %}{{- ': ' }}{%- endif %}"
    + _PARTS.replace("IMAGE", "<image>")
    + "{{- '<end_of_utterance>\n' }}{%- endfor %}{{- 'Assistant:' }}",
    # llava-v1.6-mistral-7b: the tokenizer adds BOS.
    "llava_next": "{%- for m in messages %}{{- '[INST] ' }}"
    + _PARTS.replace("IMAGE", "<image>\n")
    + "{{- ' [/INST]' }}{%- endfor %}",
    # Qwen3-VL-8B-Instruct: no BOS; the marks of turns are tokens of their own in its vocabulary.
    "qwen3_vl": "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' }}"
    + _PARTS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    + "{{- '<|im_end|>\n' }}{%- endfor %}{{- '<|im_start|>assistant\n' }}",
    # Qwen3.5-9B opens its thoughts.
    "qwen3_5": "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' }}"
    + _PARTS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    + "{{- '<|im_end|>\n' }}{%- endfor %}{{- '<|im_start|>assistant\n<think>\n' }}",
    # GLM-4.1V-9B-Thinking: two marks of its own in the place of BOS.
    "glm4v": "{{- '[gMASK]<sop>' }}{%- for m in messages %}{{- '<|user|>\n' }}"
    + _PARTS.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>")
    + "{%- endfor %}{{- '<|assistant|>\n' }}",
    # aya-vision-8b writes BOS and the turns' marks.
    "aya_vision": "{{- bos_token }}{%- for m in messages %}{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' }}"
    + _PARTS.replace("IMAGE", "<image>")
    + "{{- '<|END_OF_TURN_TOKEN|>' }}{%- endfor %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return written(tmp_path_factory)


@pytest.mark.parametrize("n_pictures", [1, 2])
@pytest.mark.parametrize("family", TEMPLATES)
def test_a_chat_has_the_processors_tokens_and_the_question_where_it_stands(
    family: str, n_pictures: int, folders: dict[str, Path]
) -> None:
    bundle = load_bundle(manifest_of(folders[family]), cache_dir=folders[family] / "cache")
    processor: Any = bundle.processor
    processor.chat_template = TEMPLATES[family]
    text = "The cat is on the table"
    pictures = [picture(50, 80), picture(90, 30, seed=1)][:n_pictures]
    asked = example(text, *pictures, chat=True, labels=Labels(anchors=((11, 13),)))
    sample = encode_example(asked, bundle)
    turns = [{"role": "user", "content": [{"type": "image"}] * n_pictures + [{"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    writes_bos = prompt.startswith("<s>")
    plain = processor(
        images=[[pil(ref) for ref in pictures]], text=[prompt], return_tensors="pt", add_special_tokens=not writes_bos
    )
    ids = plain["input_ids"][0].tolist()
    assert sample.input_ids.tolist() == ids
    assert ids.count(1) == (family not in ("internvl", *GRIDS))
    assert sample.text[sample.text_start :].startswith(text)
    pieces = [sample.text[a:b] for a, b in zip(sample.char_start, sample.char_end, strict=True)]
    kinds = np.array(TOKEN_KINDS)[sample.kind]
    assert "".join(p for p, anchor in zip(pieces, sample.is_anchor, strict=True) if anchor) == "on"
    assert "".join(p for p, kind in zip(pieces, kinds, strict=True) if kind == "text") == text.replace(" ", "")
    assert (kinds == "image").sum() == ids.count(bundle.config.image_token_id)


def test_idefics2_without_quarters_shows_each_picture_once(folders: dict[str, Path]) -> None:
    bundle = load_bundle(manifest_of(folders["idefics2"]), cache_dir=folders["idefics2"] / "cache")
    processor: Any = bundle.processor
    processor.image_processor.do_image_splitting = False
    pictures = picture(50, 80), picture(90, 30, seed=1)
    sample = encode_example(example("The cat", *pictures), bundle)
    plain = processor(images=[[pil(ref) for ref in pictures]], text=["<image><image>The cat"], return_tensors="pt")
    assert sample.input_ids.tolist() == plain["input_ids"][0].tolist()
    assert sample.tile[sample.tile >= 0].tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("family", "marks"),
    [
        ("pixtral", ["[IMG_BREAK]", "[IMG_END]"]),
        ("internvl", ["<img>", "</img>"]),
        ("qwen3_vl", ["<|vision_start|>", "<|vision_end|>"]),
        ("glm4v", [f"<|{end}_of_{kind}|>" for end in ("begin", "end") for kind in ("image", "video")]),
        ("idefics2", ["<fake_token_around_image>"]),
        (
            "aya_vision",
            ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE_1", "TILE_12", "TILE_GLOBAL"],
        ),
    ],
)
def test_marks_around_pictures_are_special_also_where_the_tokenizer_does_not_say_so(
    family: str, marks: list[str]
) -> None:
    """Steering of inputs that the caller made knows tokens by these ids alone."""
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in [*marks, "TILES", "<image>"]])
    row = next(row for row in FAMILIES if row.name == family)
    assert set(special_ids(tokenizer, row)) == set(tokenizer.convert_tokens_to_ids(marks))
