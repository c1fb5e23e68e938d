"""Steered texts as trials: every continuation is an answer in a cell, kept and read again without the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steercache.core.ids import digest
from steercache.core.operations import operation_text, read_operation
from steercache.core.trials import Answer, Cell
from steercache.core.vectors import SteeringVector
from steercache.models.ends import end_ids
from steercache.models.spec import LoadedModel
from steercache.steering.add import resid_norm
from steercache.steering.effect_inputs import NEUTRAL
from steercache.steering.generate import Continuation, SideBySide, SteeringSetting
from steercache.steering.live import resolved
from steercache.steering.prompts import encode_texts

StoredTexts = Callable[[Sequence[str]], Mapping[tuple[str, str], str]]
"""By (cell id, sample id) of some cells, the text that was written."""


def text_cells(
    model: LoadedModel,
    vector: SteeringVector,
    prompts: Sequence[str],
    *,
    settings: Sequence[SteeringSetting],
    max_new_tokens: int,
    chat: bool = False,
) -> tuple[Cell, ...]:
    """The cell of every setting, in their order; the weights of `model` are not needed."""
    return tuple(
        _cell(
            model,
            vector,
            setting,
            prompt_id=digest([list(prompts), chat]),
            decoding={
                "text": "greedy",
                "max_new_tokens": max_new_tokens,
                "when": setting.when,
                **({} if setting.n_generated is None else {"n_generated": setting.n_generated}),
                "skip_first": setting.skip_first,
                "ends": sorted(end_ids(model)),
                "dtype": model.spec.dtype,
            },
        )
        for setting in settings
    )


def _cell(
    model: LoadedModel, vector: SteeringVector, setting: SteeringSetting, *, prompt_id: str, decoding: dict[str, Any]
) -> Cell:
    steers = setting.alpha != 0
    in_norms = steers and setting.alpha_unit == "resid_norm"
    return Cell(
        vector_id=vector.vector_id if steers else None,
        layer=setting.layer if steers else None,
        alpha=setting.alpha,
        target=str(resolved(setting.target, vector)),
        alpha_unit=setting.alpha_unit,
        operation=operation_text(read_operation(setting.operation)) if steers else "add",
        unit_norm=resid_norm(vector, setting.layer) if in_norms else None,
        preprocessing=model.spec.tokenizer_digest,
        model_fingerprint=model.spec.fingerprint,
        prompt_id=prompt_id,
        decoding=decoding,
    )


def kept_texts(
    model: LoadedModel,
    prompts: Sequence[str],
    cells: Sequence[Cell],
    *,
    stored: StoredTexts,
    chat: bool = False,
) -> list[SideBySide] | None:
    """What an earlier run wrote in these cells; None where a text is missing."""
    found = stored([cell.cell_id for cell in cells])
    texts = []
    for prompt, sample in zip(prompts, encode_texts(model.bundle, prompts, chat=chat), strict=True):
        written = [found.get((cell.cell_id, sample.sample_id)) for cell in cells]
        if any(text is None for text in written):
            return None
        each = tuple(Continuation(alpha=c.alpha, text=text or "") for c, text in zip(cells, written, strict=True))
        texts.append(SideBySide(prompt=prompt, continuations=each))
    return texts


def text_answers(
    model: LoadedModel, texts: Sequence[SideBySide], cells: Sequence[Cell], *, chat: bool = False
) -> tuple[Answer, ...]:
    """Every continuation as an answer; one that overflowed is a failed one."""
    samples = encode_texts(model.bundle, [text.prompt for text in texts], chat=chat)
    return tuple(
        Answer(
            cell_id=cell.cell_id,
            sample_id=sample.sample_id,
            split=NEUTRAL,
            raw=one.text,
            status="ok" if one.error is None else "failed",
            error=one.error,
            mode="full",
        )
        for text, sample in zip(texts, samples, strict=True)
        for cell, one in zip(cells, text.continuations, strict=True)
    )
