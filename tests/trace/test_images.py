"""Pictures in prompts: tokens, masks, places and values of every multimodal family, against the processor and plain hooks."""

import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from steercache.core.errors import UsageError
from steercache.core.examples import TOKEN_KINDS, EncodedSample, Example, ImageRef, Labels
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture
from steercache.trace.encode import EncodingProblem, encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_images import (
    DEEPSTACK,
    FAMILIES_IN_DTYPES,
    GRIDS,
    MAKERS,
    N_LAYERS,
    NO_BOS,
    PLACEHOLDER,
    WIDTH,
    picture,
    written,
)

# PaliGemma's processor converts its own tensors in a way that numpy 2 warns of; the tests call it as users do.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post")
LAYERS = tuple(range(N_LAYERS))
BLOCKS = dict.fromkeys(("idefics2", "idefics3"), "model.text_model.layers")
CONNECTOR = dict.fromkeys(BLOCKS, "model.connector") | dict.fromkeys(("gemma3n", "gemma4"), "model.embed_vision")
CONNECTOR |= dict.fromkeys(GRIDS, "model.visual.merger")
REARRANGED = ("llava_onevision", "llava_next", "qwen2_5_vl")  # what the connector gives is not yet in the tokens' order
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
GLM_NORMS = ("post_self_attn_layernorm", "post_mlp_layernorm")
ADDED = dict.fromkeys(("paligemma", "gemma3"), POST_NORMS) | dict.fromkeys(("glm4v", "glm46v"), GLM_NORMS)
NO_PARTS = ("gemma3n", "gemma4")  # a block is not the sum of two parts
TYPES = dict.fromkeys(("paligemma", "gemma3"), "token_type_ids")
TYPES |= dict.fromkeys((*GRIDS, "gemma4"), "mm_token_type_ids")
IMAGE, TEXT = TOKEN_KINDS.index("image"), TOKEN_KINDS.index("text")


def sites_of(family: str) -> list[str]:
    """The sites of a block."""
    return [site for site in SITES if site.startswith("resid") or family not in NO_PARTS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory)


@functools.cache
def load(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype=dtype)


def example(text: str, *pictures: ImageRef, **fields: Any) -> Example:
    return Example(dataset="d", place="d.jsonl:3", text=text, images=pictures, **fields)


def pil(ref: ImageRef) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(ref.load())).convert("RGB")


def plain_prompt(loaded: LoadedModel, asked: Example) -> str:
    """The prompt as the family's documentation writes it, not as the code under test does."""
    if asked.chat:
        content = [{"type": "image"}] * len(asked.images) + [{"type": "text", "text": asked.text}]
        turns = [{"role": "user", "content": content}]
        return str(loaded.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))  # type: ignore[union-attr]
    name = loaded.spec.family
    one = PLACEHOLDER.get(name, "<image>")
    return one * len(asked.images) + asked.text


def plain_inputs(loaded: LoadedModel, *asked: Example, **options: Any) -> Any:
    """What the processor itself makes of the examples."""
    processor: Any = loaded.processor
    text = [plain_prompt(loaded, one) for one in asked]
    images = [[pil(ref) for ref in one.images] for one in asked]
    inputs = processor(images=images, text=text, return_tensors="pt", **options)
    inputs.pop("labels", None)
    return inputs


def hooked_forward(model: nn.Module, family: str, inputs: dict[str, Any]) -> dict[tuple[str, int], torch.Tensor]:
    """Every site by hooks that copy at once; layer -1 is the connector."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    handles = []

    def active(value: torch.Tensor) -> torch.Tensor:
        return value[0] if family == "gemma3n" and value.ndim == 4 else value  # of four streams the first

    def keep(key: tuple[str, int], module: nn.Module, *, before: bool = False) -> None:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            seen[key] = active(output[0] if isinstance(output, tuple) else output).clone()

        def hook_before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            seen[key] = active([*args, *kwargs.values()][0]).clone()

        if before:
            handles.append(module.register_forward_pre_hook(hook_before, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(hook))

    attn, mlp = ADDED.get(family, ("self_attn", "mlp"))
    for layer, block in enumerate(model.get_submodule(BLOCKS.get(family, "model.language_model.layers")).children()):
        keep(("resid_pre", layer), block, before=True)
        keep(("resid_post", layer), block)
        if family not in NO_PARTS:
            hybrid = "linear_attn" if hasattr(block, "linear_attn") else attn
            keep(("attn_out", layer), block.get_submodule(hybrid))
            keep(("mlp_out", layer), block.get_submodule(mlp))
    connector = model.get_submodule(CONNECTOR.get(family, "model.multi_modal_projector"))
    keep(("vision_out", -1), connector, before=True)
    keep(("connector", -1), connector)
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("family", MAKERS)
def test_tokens_masks_and_per_token_inputs_are_the_processors(
    family: str, chat: bool, folders: dict[str, Path]
) -> None:
    loaded = load(folders[family])
    asked = example("The cat is on the table", picture(50, 80), chat=chat)
    sample = encode_example(asked, loaded.bundle)
    bos_in_prompt = chat and plain_prompt(loaded, asked).startswith("<s>")
    plain = plain_inputs(loaded, asked, add_special_tokens=not bos_in_prompt)
    assert sample.input_ids.tolist() == plain["input_ids"][0].tolist()
    assert ((sample.kind == IMAGE) == (plain["input_ids"][0] == loaded.config.image_token_id).numpy()).all()
    if family in TYPES:
        assert sample.extra[TYPES[family]].tolist() == plain[TYPES[family]][0].tolist()
    else:
        assert not sample.extra


@pytest.mark.parametrize("family", MAKERS)
def test_the_shown_text_has_the_words_where_the_spans_say_and_pictures_have_none(
    family: str, folders: dict[str, Path]
) -> None:
    loaded = load(folders[family])
    text = "The cat is on the table"
    for chat in (False, True):
        labels = Labels(anchors=((11, 13),))
        sample = encode_example(example(text, picture(50, 80), chat=chat, labels=labels), loaded.bundle)
        assert sample.text[sample.text_start :].startswith(text)
        pieces = [sample.text[a:b] for a, b in zip(sample.char_start, sample.char_end, strict=True)]
        assert "".join(p for p, anchor in zip(pieces, sample.is_anchor, strict=True) if anchor) == "on"
        assert (sample.char_start[sample.kind == IMAGE] == -1).all()
        names = np.array(loaded.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist()))
        kinds = np.array(TOKEN_KINDS)[sample.kind]
        for name, kind in zip(names, kinds, strict=True):
            if name.startswith("<") and name.endswith(">"):
                assert kind in ("special", "image"), name
        assert "".join(names[kinds == "text"]).replace("Ġ", " ").strip() == text  # nothing that the processor adds
        assert not sample.is_control[kinds != "text"].any()


def n_image_tokens(family: str, width: int, height: int, inputs: Any) -> int:
    """Counted by hand from the picture's size and the processor's own report."""
    if family == "idefics3":
        return int(inputs["pixel_values"].shape[1]) * 4  # tiles and the whole, 16 patches shuffled 2 x 2
    if family in GRIDS:
        return int(inputs["image_grid_thw"].prod()) // 4
    if family == "idefics2":
        return int(inputs["pixel_values"].shape[1]) * 5  # quarters and the whole, five latents each
    if family in ("internvl", "aya_vision"):
        return len(inputs["pixel_values"]) * 4  # tiles and the whole, 16 patches shuffled 2 x 2
    if family in ("pixtral", "mistral3"):
        side = 8 if family == "pixtral" else 16
        return -(-height // side) * -(-width // side)
    if family in ("llava_onevision", "llava_next"):
        # 32 x 32 views of 4 x 4 patches on the canvas chosen; the picture's share of it, and an end for each line
        rows, cols = {(50, 80): (8, 6), (90, 30): (4, 12), (32, 32): (4, 4)}[width, height]
        return 16 + rows * cols + rows
    if family == "gemma4":  # at most 630 patches of 8 x 8 in the picture's own shape, nine to a token
        return {(50, 80): 6 * 10, (90, 30): 4 * 14, (32, 32): 8 * 8}[width, height]
    return {"paligemma": 16, "gemma3": 4, "gemma3n": 16, "llava": 16}[family]


@pytest.mark.parametrize("size", [(50, 80), (90, 30), (32, 32)])
@pytest.mark.parametrize("family", MAKERS)
def test_there_are_as_many_image_tokens_as_the_picture_has_places(
    family: str, size: tuple[int, int], folders: dict[str, Path]
) -> None:
    loaded = load(folders[family])
    asked = example("The cat", picture(*size))
    sample = encode_example(asked, loaded.bundle)
    n = n_image_tokens(family, *size, plain_inputs(loaded, asked))
    assert (sample.kind == IMAGE).sum() == n
    places = np.stack([sample.tile, sample.patch_row, sample.patch_col], axis=1)
    assert (places[sample.kind != IMAGE] == -1).all()
    on_patches = places[(sample.kind == IMAGE) & (sample.patch_row >= 0)]
    assert len(np.unique(on_patches, axis=0)) == len(on_patches)  # no place twice
    line_ends = (sample.kind == IMAGE) & (sample.patch_row < 0)
    assert (line_ends.any()) == (family in ("llava_onevision", "llava_next", "idefics2"))


def blind_tower(model: nn.Module) -> None:
    """Let every patch see itself only, so that a change in the picture reaches the tokens over it and no others."""
    for name, parameter in model.named_parameters():
        if (
            ("vision" in name or "visual" in name)
            and "merger" not in name
            and any(
                part in name for part in ("o_proj", "out_proj", "fc2", "attn.proj", "down_proj", "projection_layer")
            )
        ):
            parameter.data.zero_()


def dotted(width: int, height: int, dot: tuple[float, float] | None) -> ImageRef:
    """A grey picture with a bright square around `dot` (x and y as shares of the size)."""
    pixels = np.full((height, width, 3), 100, dtype=np.uint8)
    if dot is not None:
        x, y = int(dot[0] * width), int(dot[1] * height)
        pixels[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = 255
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format="PNG")
    return ImageRef(name="dot.png", load=stream.getvalue)


@pytest.mark.parametrize("family", MAKERS)
def test_a_dot_on_the_picture_moves_the_tokens_whose_place_it_is(family: str, folders: dict[str, Path]) -> None:
    loaded = load_model(manifest_of(folders[family]), cache_dir=folders[family] / "cache", device="cpu")
    blind_tower(loaded.model)
    for size in (
        [(96, 96)] if family == "llava" else [(96, 96), (96, 48), (48, 96)]
    ):  # LLaVA 1.5 cuts what is not square
        plain = connector_rows(loaded, dotted(*size, None))
        for dot in [(0.15, 0.15), (0.85, 0.15), (0.4, 0.9), (0.6, 0.4)]:
            sample, rows = connector_rows(loaded, dotted(*size, dot))
            change = (rows - plain[1]).norm(dim=1).numpy()
            if family == "idefics2":  # a token reads the whole of its view: the dot's quarter, or the whole picture
                quarter = int(dot[0] > 0.5) + 2 * int(dot[1] > 0.5)
                assert set(sample.tile[change > 0].tolist()) == {quarter, 4}
                continue
            for view in views(sample):
                tokens = np.flatnonzero(view)
                hit = tokens[change[tokens].argmax()]
                n_rows, n_cols = sample.patch_row[tokens].max() + 1, sample.patch_col[tokens].max() + 1
                assert abs((sample.patch_col[hit] + 0.5) / n_cols - dot[0]) <= 0.5 / n_cols + 0.06, (size, dot)
                assert abs((sample.patch_row[hit] + 0.5) / n_rows - dot[1]) <= 0.5 / n_rows + 0.06, (size, dot)


def connector_rows(loaded: LoadedModel, ref: ImageRef) -> tuple[EncodedSample, torch.Tensor]:
    sample = encode_example(example("The cat", ref), loaded.bundle)
    batch = pad_batch([sample], padding_side="right", pad_id=0)
    return sample, capture(loaded, batch, sites=["connector_out"], layers=[])["connector_out"][0][0].nan_to_num()


def views(sample: EncodedSample) -> list[Any]:
    """Tokens of each view of the whole picture: the last tile is the small view, those before it are one large one."""
    patch = sample.patch_row >= 0
    last = sample.tile == sample.tile.max()
    first = patch & ~last
    return [view for view in (first, patch & last) if view.any()]


@pytest.mark.parametrize(("family", "dtype"), FAMILIES_IN_DTYPES)
def test_every_site_equals_a_plain_forward_of_the_processors_inputs_bit_for_bit(
    family: str, dtype: str, folders: dict[str, Path]
) -> None:
    loaded = load(folders[family], dtype)
    asked = [example("The cat is on the table", picture(50, 80, seed=i)) for i in range(2)]
    expected = hooked_forward(loaded.model, family, plain_inputs(loaded, *asked))
    samples = [encode_example(one, loaded.bundle) for one in asked]
    batch = pad_batch(samples, padding_side="left", pad_id=0)
    states = capture(loaded, batch, sites=[*sites_of(family), "vision_out", "connector_out"], layers=LAYERS)
    assert {site for site, _ in expected} == {*sites_of(family), "vision_out", "connector"}
    for (site, layer), value in expected.items():
        if site in SITES:
            assert torch.equal(states[site][layer], value), (site, layer)
            assert states[site][layer].dtype == getattr(torch, dtype)
    assert torch.equal(states["vision_out"][0], expected["vision_out", -1])
    is_image = batch.input_ids == loaded.config.image_token_id
    connected = states["connector_out"][0]
    assert connected[~is_image].isnan().all()
    if family not in REARRANGED:
        assert torch.equal(connected[is_image], expected["connector", -1].reshape(-1, WIDTH))
    assert torch.equal(connected[is_image], expected["resid_pre", 0][is_image])


@pytest.mark.parametrize("family", DEEPSTACK)
def test_features_that_the_decoder_adds_are_in_the_next_blocks_input_and_not_in_the_output(
    family: str, folders: dict[str, Path]
) -> None:
    loaded = load(folders[family])
    asked = example("The cat is on the table", picture(50, 80))
    inputs = plain_inputs(loaded, asked)
    with torch.no_grad():
        tower = loaded.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        own = loaded.model(**inputs, output_hidden_states=True).hidden_states
    batch = pad_batch([encode_example(asked, loaded.bundle)], padding_side="right", pad_id=0)
    states = capture(loaded, batch, sites=["resid_pre", "resid_post"], layers=LAYERS)
    is_image = batch.input_ids == loaded.config.image_token_id
    assert len(tower.deepstack_features) == DEEPSTACK[family] == 1
    for layer in LAYERS[:-1]:
        out, read = states["resid_post"][layer], states["resid_pre"][layer + 1]
        assert torch.equal(out, own[layer + 1])
        expected = out.clone()
        if layer < DEEPSTACK[family]:
            expected[is_image] = out[is_image] + torch.cat(tower.deepstack_features[layer])
        assert torch.equal(read, expected)
        assert torch.equal(read, out) == (layer >= DEEPSTACK[family])


@pytest.mark.parametrize("family", MAKERS)
def test_neither_padding_nor_neighbours_reach_a_sample(family: str, folders: dict[str, Path]) -> None:
    loaded = load(folders[family])
    asked = [example("The cat", picture(90, 30)), example("Two dogs ran under the bridge", picture(50, 80, seed=1))]
    samples = [encode_example(one, loaded.bundle) for one in asked]
    for side in ("left", "right"):
        batch = pad_batch(samples, padding_side=side, pad_id=0)  # type: ignore[arg-type]
        states = capture(loaded, batch, sites=["resid_post"], layers=LAYERS)["resid_post"]
        for row, one in enumerate(asked):
            alone = hooked_forward(loaded.model, family, plain_inputs(loaded, one))
            start, n = batch.starts[row], batch.lengths[row]
            for layer in LAYERS:
                got = states[layer][row, start : start + n]
                torch.testing.assert_close(got, alone["resid_post", layer][0], atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize("family", MAKERS)
def test_the_language_model_is_not_run_for_what_comes_before_it(family: str, folders: dict[str, Path]) -> None:
    loaded = load_model(manifest_of(folders[family]), cache_dir=folders[family] / "cache", device="cpu")
    calls: list[str] = []
    block = loaded.model.get_submodule(BLOCKS.get(family, "model.language_model.layers") + ".0.mlp")
    block.register_forward_pre_hook(lambda *_: calls.append("mlp"))
    batch = pad_batch(
        [encode_example(example("The cat", picture(32, 32)), loaded.bundle)], padding_side="left", pad_id=0
    )
    capture(loaded, batch, sites=["vision_out"], layers=[])
    capture(loaded, batch, sites=["connector_out"], layers=[])
    assert calls == []
    capture(loaded, batch, sites=["resid_post"], layers=[0])
    assert calls == ["mlp"]


@pytest.mark.parametrize("family", MAKERS)
def test_a_sentence_alone_is_read_as_the_text_model_reads_it(family: str, folders: dict[str, Path]) -> None:
    loaded = load(folders[family])
    sample = encode_example(example("The cat is on the table"), loaded.bundle)
    assert not (sample.kind == IMAGE).any()
    state = capture(loaded, pad_batch([sample], padding_side="left", pad_id=0), sites=["resid_post"], layers=LAYERS)
    text_model = loaded.model.get_submodule(BLOCKS.get(family, "model.language_model.layers").removesuffix(".layers"))
    seen: list[torch.Tensor] = []
    handles = [b.register_forward_hook(lambda _, __, out: seen.append(out.clone())) for b in text_model.layers]
    ids = torch.from_numpy(sample.input_ids.astype(np.int64))[None]
    with torch.no_grad():  # the bare text model: causal, positions from 0, or from 1 in PaliGemma
        text_model(input_ids=ids, position_ids=torch.arange(ids.shape[1])[None] + (family == "paligemma"))
    for handle in handles:
        handle.remove()
    for got, whole in zip(state["resid_post"], seen, strict=True):
        expected = whole[0] if family == "gemma3n" else whole
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    has_bos = family not in NO_BOS
    assert (loaded.tokenizer.convert_ids_to_tokens(int(sample.input_ids[0])) == "<s>") == has_bos


def test_two_pictures_count_their_tiles_on(folders: dict[str, Path]) -> None:
    for family in MAKERS:
        if family in ("llava_onevision", "qwen2_5_vl"):  # of several pictures small views; one tile for each picture
            continue
        loaded = load(folders[family])
        one = encode_example(example("The cat", picture(50, 80)), loaded.bundle)
        two = encode_example(example("The cat", picture(50, 80), picture(50, 80, seed=1)), loaded.bundle)
        n = int(one.tile.max()) + 1
        assert two.tile.max() + 1 == 2 * n
        assert (two.kind == IMAGE).sum() == 2 * (one.kind == IMAGE).sum()
        assert len(two.image_digests) == 2
        assert two.image_digests[0] == one.image_digests[0] != two.image_digests[1]


def test_what_follows_the_prompt_in_paligemma_is_read_one_way(folders: dict[str, Path]) -> None:
    loaded = load(folders["paligemma"])
    sample = encode_example(example("The cat", picture(32, 32), completion="on it"), loaded.bundle)
    assert sample.text.endswith("The cat\non it")
    after = sample.extra["token_type_ids"] == 1
    spans = zip(sample.char_start[after], sample.char_end[after], strict=True)
    assert "".join(sample.text[a:b] for a, b in spans) == "onit"


def test_the_picture_is_decoded_when_its_batch_runs_and_belongs_to_the_samples_id(folders: dict[str, Path]) -> None:
    loaded = load(folders["llava"])
    reads: list[str] = []
    ref = picture(32, 32)
    counted = dataclasses.replace(ref, load=lambda: reads.append("x") or ref.load())  # type: ignore[func-returns-value]
    sample = encode_example(example("The cat", counted), loaded.bundle)
    before = len(reads)
    pad_batch([sample], padding_side="left", pad_id=0)
    assert len(reads) == before + 1
    same = encode_example(example("The cat", ref), loaded.bundle)
    other = encode_example(example("The cat", picture(32, 32, seed=9)), loaded.bundle)
    assert sample.sample_id == same.sample_id != other.sample_id
    assert sample.input_ids.tolist() == other.input_ids.tolist()


@pytest.mark.parametrize("data", [b"", b"not a picture", picture(40, 40).load()[:200]])
def test_a_broken_picture_is_named(data: bytes, folders: dict[str, Path]) -> None:
    broken = ImageRef(name="pictures/broken.png", load=lambda: data)
    with pytest.raises(EncodingProblem, match=r"d.jsonl:3: the picture pictures/broken\.png cannot be read") as caught:
        encode_example(example("The cat", broken), load(folders["idefics3"]).bundle)
    assert caught.value.kind == "images"


def test_places_for_pictures_and_pictures_must_be_as_many(folders: dict[str, Path]) -> None:
    bundle = load(folders["llava"]).bundle
    assert encode_example(example("<image>The cat", picture(32, 32)), bundle).text == "<image>The cat"
    assert encode_example(example("See <image> there", picture(32, 32)), bundle).text_start == 0
    for asked in (
        example("<image><image>The cat", picture(32, 32)),
        example("<image>The cat", picture(32, 32), picture(32, 32)),
        example("<image>The cat"),
    ):
        with pytest.raises(EncodingProblem) as caught:
            encode_example(asked, bundle)
        assert caught.value.kind == "images"


def turned_picture() -> ImageRef:
    """A grey picture, 96 wide and 32 high in the file, that its EXIF turns by a quarter."""
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("L", (96, 32)).save(stream, format="JPEG", exif=exif)
    return ImageRef(name="turned.jpg", load=stream.getvalue)


def test_a_grey_and_a_turned_picture_are_read_as_people_see_them(folders: dict[str, Path]) -> None:
    bundle = load(folders["qwen2_5_vl"]).bundle
    sample = encode_example(example("The cat", turned_picture()), bundle)
    assert (sample.patch_row.max() + 1, sample.patch_col.max() + 1) == (96 // 16, 32 // 16)


def test_a_text_site_list_is_named_when_a_site_is_not_there(folders: dict[str, Path]) -> None:
    loaded = load(folders["llava"])
    batch = pad_batch([encode_example(example("The cat"), loaded.bundle)], padding_side="left", pad_id=0)
    with pytest.raises(UsageError, match="vision_out"):
        capture(loaded, batch, sites=["visions"], layers=[0])


@pytest.mark.parametrize("family", MAKERS)
def test_prompts_of_two_pictures_before_and_within_the_text_have_the_processors_tokens(
    family: str, folders: dict[str, Path]
) -> None:
    loaded = load(folders[family])
    pictures = picture(50, 80), picture(90, 30, seed=1)
    mark = PLACEHOLDER.get(family, "<image>")
    texts = ("The cat", f"{mark}{mark}The cat", f"See {mark} and{mark}there", f"{mark}\n{mark} on the table")
    for text in texts[:1] if family == "paligemma" else texts:  # which writes BOS behind its pictures
        asked = example(text, *pictures)
        sample = encode_example(asked, loaded.bundle)
        written = text if mark in text else mark * 2 + text
        plain = loaded.processor(images=[[pil(ref) for ref in pictures]], text=[written], return_tensors="pt")  # type: ignore[misc]
        assert sample.input_ids.tolist() == plain["input_ids"][0].tolist(), text
        assert ((sample.kind == IMAGE) == (plain["input_ids"][0] == loaded.config.image_token_id).numpy()).all()
        pieces = [
            sample.text[a:b]
            for a, b, k in zip(sample.char_start, sample.char_end, sample.kind, strict=True)
            if k == TEXT
        ]
        assert "".join("".join(pieces).split()) == "".join(text.replace(mark, "").split())
