"""What an earlier run measured of a vector's effect on the next token, read again without the model."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from steercache.core.trials import Mode
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.steering.effect_inputs import EffectInputs, prompt_inputs
from steercache.steering.effects import WordMass, WordMassPlan, as_trials, random_directions, settings_as_cells
from steercache.steering.foreign import warn_if_foreign
from steercache.steering.word_tokens import word_tokens

StoredScores = Callable[[Sequence[str]], Mapping[tuple[str, str], tuple[float | None, Mode | None]]]
"""By (cell id, sample id) of some cells, the score (None: that forward pass was not finite) and how it was computed."""


def kept_word_mass(
    model: LoadedModel,
    vector: SteeringVector,
    plan: WordMassPlan,
    *,
    scores: StoredScores,
    inputs: EffectInputs | None = None,
) -> WordMass | None:
    """What `effects.word_mass_effect` measured before, from its answers; None where one of them is missing.

    The weights of `model` are not needed. Without `plan.apart` answers have the words' probability together only: the last axis
    of `probability_vapw` has one column then, their sum.

    Raises:
        as `word_mass_effect`.
    """
    tokens, left_out = word_tokens(model, plan.words, forms=plan.forms)
    inputs = inputs or prompt_inputs(model, plan.prompts)
    vectors = (vector, *random_directions(vector, layer=plan.layer, n=plan.n_random, seed=plan.seed))
    words, alphas = tuple(tokens), tuple(dict.fromkeys((0.0, *plan.alphas)))
    settings = settings_as_cells(model, vectors, plan=plan, inputs=inputs, words=words)
    found = scores([cell.cell_id for _, _, cell in settings])
    columns: dict[tuple[str, ...], int] = {words: 0}
    if plan.apart:
        columns = {(word,): w for w, word in enumerate(words)}
    vapw = np.full((len(vectors), len(alphas), inputs.n, len(columns)), np.nan)
    modes: dict[tuple[int, int], Mode] = {}
    for (v, a), some, cell in settings:
        for i, sample_id in enumerate(inputs.sample_ids):
            one = found.get((cell.cell_id, sample_id))
            if one is None:
                return None
            score, mode = one
            vapw[v, a, i, columns[some]] = np.nan if score is None else score
            modes[v, a] = mode or "branch"
    warn_if_foreign(model, vector)  # otherwise whoever measures does
    vapw[1:, 0] = vapw[0, 0]  # the model itself is asked once
    cells, answers = as_trials(model, vectors, plan=plan, inputs=inputs, words=words, vapw=vapw, modes=modes)
    return WordMass(
        plan=plan,
        concept=vector.concept,
        alphas=alphas,
        words=words,
        probability_vapw=vapw,
        left_out=left_out,
        vectors=vectors,
        cells=cells,
        answers=answers,
    )
