"""Targets written as SQL: which tokens of some prompts they select, before a model is steered."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample, Example, ImageRef
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.queries.token_clause import TokenClause, read_token_clause
from steercache.steering.clause_masks import PlannedTarget
from steercache.steering.plan_target import plan_samples
from steercache.trace.encode import EncodingProblem, encode_example


def plan_target(
    model: LoadedModel,
    target: str | TokenClause,
    prompts: str | Sequence[str],
    *,
    images: Sequence[str | PathLike[str] | None] | None = None,
    chat: bool = False,
) -> PlannedTarget:
    """The tokens of prompts that a target written as SQL selects, for `steer(..., target=...)` over these prompts.

    `target` is text such as "sql: kind = 'image' and patch_row < 3", or what `cache.target` read. `images` are files, one for
    each prompt or None; `chat` puts each prompt into the model's chat template. Texts, words and patches are known here, which
    a pass sees as token ids only. A condition on activations takes one unsteered pass over the prompts.

    Raises:
        QueryError: the SQL is wrong or not allowed. UsageError: a prompt or a picture that cannot be encoded, or a layer that
            the model does not have.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    files = [None] * len(texts) if images is None else list(images)
    if len(files) != len(texts):
        raise UsageError(f"{len(files)} pictures for {len(texts)} prompts", hint="one for each, or None")
    clause = target if isinstance(target, TokenClause) else read_token_clause(target)
    samples = [
        _encoded(model.bundle, text, file, number, chat=chat)
        for number, (text, file) in enumerate(zip(texts, files, strict=True), start=1)
    ]
    return plan_samples(model, clause, samples)


def _encoded(
    bundle: TokenizerBundle, text: str, file: str | PathLike[str] | None, number: int, *, chat: bool
) -> EncodedSample:
    place = f"prompt {number}"
    pictures = () if file is None else (ImageRef(name=str(file), load=Path(file).read_bytes),)
    try:
        return encode_example(Example(dataset="prompts", place=place, text=text, chat=chat, images=pictures), bundle)
    except EncodingProblem as problem:
        raise UsageError(problem.message, place=place, hint=problem.hint) from problem
