"""What the probability of words is read after: prompts, or questions about pictures, as batches of one forward each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample
from steercache.core.ids import digest
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel
from steercache.steering.prompts import encode_texts, pad_prompts
from steercache.trace.batches import PaddedBatch, group_by_rule, pad_batch, plan_batches

NEUTRAL = "neutral"  # the split of prompts that no data set has


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectInputs:
    """Inputs in the order of their batches; `batches` makes them anew, so that pictures are decoded when they are run.

    `texts` is what a person reads of each, `prompt_id` stands for all of them in a cell's identity. With `skip_first` the first
    token of a prompt is not steered: in a bare text it is the attention sink.
    """

    batches: Callable[[], Iterable[PaddedBatch]] = field(repr=False)
    sample_ids: tuple[str, ...] = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    prompt_id: str
    split: str = NEUTRAL
    skip_first: bool = False

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.sample_ids)


def prompt_inputs(loaded: LoadedModel, prompts: Sequence[str]) -> EffectInputs:
    """Bare prompts, padded on the left; their first tokens are left alone. One batch, unless the model's rotary scaling
    depends on length.

    Raises:
        UsageError: no prompts, or one without tokens.
    """
    samples = encode_texts(loaded.bundle, prompts)
    groups = group_by_rule([s.n_tokens for s in samples], length_rule(loaded.bundle))
    batches = tuple(pad_prompts(loaded, [samples[i] for i in group]) for group in groups)
    order = [i for group in groups for i in group]
    return EffectInputs(
        batches=lambda: batches,
        sample_ids=tuple(samples[i].sample_id for i in order),
        texts=tuple(prompts[i] for i in order),
        prompt_id=digest(list(prompts)),
        skip_first=True,
    )


def sample_inputs(
    loaded: LoadedModel, samples: Sequence[EncodedSample], *, split: str, tokens_per_batch: int
) -> tuple[EffectInputs, tuple[int, ...]]:
    """Encoded samples, with or without pictures, batched by length; and the place of each input among `samples`.

    Raises:
        UsageError: no samples.
    """
    if not samples:
        raise UsageError("there is no sample to read the words after")
    plan = plan_batches(
        [s.n_tokens for s in samples], tokens_per_batch=tokens_per_batch, rule=length_rule(loaded.bundle)
    )
    order = tuple(i for members in plan for i in members)

    def batches() -> Iterator[PaddedBatch]:
        for members in plan:
            some = [samples[i] for i in members]
            yield pad_batch(some, padding_side="left", pad_id=loaded.pad_id)

    inputs = EffectInputs(
        batches=batches,
        sample_ids=tuple(samples[i].sample_id for i in order),
        texts=tuple(samples[i].text for i in order),
        prompt_id=digest(sorted(s.sample_id for s in samples)),
        split=split,
    )
    return inputs, order
