"""Text with and without a vector, side by side."""

from collections.abc import Sequence

from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.steering.generate import SideBySide, SteeringSetting, generate_side_by_side
from steercache.steering.live import When
from steercache.steering.targets import TargetLike


def generate(
    model: LoadedModel,
    vector: SteeringVector,
    prompts: str | Sequence[str],
    *,
    layer: int,
    alphas: Sequence[float] = (1.0,),
    alpha_unit: AlphaUnit = "raw",
    target: TargetLike = "all",
    when: When = "prefill",
    skip_first: bool = False,
    max_new_tokens: int = 20,
    chat: bool = False,
) -> list[SideBySide]:
    """Continue every prompt greedily without the vector (alpha 0) and at every strength of `alphas`.

    `target` names the steered tokens ("image", "text", "both", "all", "last", or a bool mask of shape (b, t)), `when` whether
    only the prompt ("prefill") or every generated token too ("every"). `skip_first` leaves the first token, the attention
    sink, alone; `chat` puts each prompt into the model's chat template. `alpha_unit` is what alpha counts in: "raw" multiplies
    the vector as it is; "resid_norm" gives it the length of alpha median norms of the rows that it was fitted on, which
    `fit.diagnose` measures. `max_new_tokens` counts the tokens of a continuation. Returns one result per prompt, with the
    strengths in the order given, 0 first.

    Raises:
        UsageError: a layer the model does not have, a vector of another width, or a target that matches no token.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    settings = [
        SteeringSetting(
            layer=layer, alpha=alpha, alpha_unit=alpha_unit, target=target, when=when, skip_first=skip_first
        )
        for alpha in dict.fromkeys((0.0, *alphas))
    ]
    return generate_side_by_side(model, vector, texts, settings=settings, max_new_tokens=max_new_tokens, chat=chat)
