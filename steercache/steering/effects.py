"""What a vector does to the next token: the probability of words against alpha, beside random directions of equal norm.

After bare prompts, or after questions about pictures: one unsteered pass per batch, every direction and strength branches
from it (`steer.branch`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.core.trials import AlphaUnit, Answer, Cell, Mode, Target
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.steering.add import delta_of, direction_at, resid_norm
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import NOT_FINITE, BranchCell, finite_rows
from steercache.steering.effect_inputs import EffectInputs, prompt_inputs
from steercache.steering.foreign import warn_if_foreign
from steercache.steering.prefill import Prefill, run_prefill
from steercache.steering.stack import MIB
from steercache.steering.word_tokens import Forms, word_tokens

Masses = npt.NDArray[np.float64]
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMassPlan:
    """What to measure. `alphas` are in `alpha_unit`; every random direction has the vector's norm at `layer`.

    `prompts` are the texts to read on, where no other inputs are given. `forms` says which tokens are a word: the one behind a
    space, or "any" of its single tokens, behind a space or not, capital or not. With `apart` every word is a cell of its own.
    """

    words: tuple[str, ...]
    layer: int
    alphas: tuple[float, ...]
    prompts: tuple[str, ...] = ()
    target: Target = "text"
    alpha_unit: AlphaUnit = "raw"
    n_random: int = 20
    seed: int = 0
    forms: Forms = "spaced"
    apart: bool = False
    memory_mib: int = 1024

    def manifest(self) -> dict[str, Any]:
        """The plan as JSON, without what only decides how fast it runs."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "memory_mib"}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMass:
    """Probabilities of shape (directions, alphas, inputs, words); direction 0 is the vector, the others are random.

    NaN where a forward pass overflowed: that answer failed. `alphas` holds 0 (the model itself) and the plan's. `words` are
    those that were scored; `left_out` those that are more than one token. `vectors` are the directions.
    """

    plan: WordMassPlan
    concept: str | None
    alphas: tuple[float, ...]
    words: tuple[str, ...]
    probability_vapw: Masses
    left_out: tuple[str, ...]
    vectors: tuple[SteeringVector, ...]
    cells: tuple[Cell, ...]
    answers: tuple[Answer, ...]

    @property
    def mass_vap(self) -> Masses:
        """Probability that the next token is one of the words, shape (directions, alphas, inputs)."""
        mass: Masses = self.probability_vapw.sum(axis=-1)
        return mass

    @property
    def n_inputs(self) -> int:
        """Prompts or questions."""
        return int(self.probability_vapw.shape[2])


def word_mass_effect(
    loaded: LoadedModel,
    vector: SteeringVector,
    plan: WordMassPlan,
    *,
    inputs: EffectInputs | None = None,
    progress: Progress | None = None,
) -> WordMass:
    """Next-token probability of each of `plan.words` after each input, for the vector and random directions, at each alpha.

    Without `inputs`, after `plan.prompts`. The softmax is taken in float32 over the whole vocabulary.

    Warns (`ForeignVectorWarning`) of a vector that was fitted on other weights.

    Raises:
        UsageError: no word is a single token, a layer or alpha that cannot be, or a target that hits nothing of an input.
    """
    warn_if_foreign(loaded, vector)
    tokens, left_out = word_tokens(loaded, plan.words, forms=plan.forms)
    if inputs is None:
        inputs = prompt_inputs(loaded, plan.prompts)
    vectors = (vector, *random_directions(vector, layer=plan.layer, n=plan.n_random, seed=plan.seed))
    alphas = tuple(dict.fromkeys((0.0, *plan.alphas)))
    deltas = {
        (v, a): delta_of(vectors[v], plan.layer, alpha=alphas[a], alpha_unit=plan.alpha_unit)
        for v in range(len(vectors))
        for a in range(1, len(alphas))
    }
    probability = np.empty((len(vectors), len(alphas), inputs.n, len(tokens)))
    modes: dict[tuple[int, int], Mode] = {(0, 0): "full"}
    first = done = 0
    for batch in inputs.batches():
        here = slice(first, first := first + len(batch.lengths))
        prefill = run_prefill(loaded, batch, layers=[plan.layer])
        ids = list(tokens.values())
        if prefill.logits_bv is None:
            raise UsageError("the model gave no logits")
        probability[:, 0, here] = _probabilities(prefill.logits_bv, ids, finite_rows(prefill.logits_bv))
        for setting, mode, found in _steered(prefill, deltas, plan=plan, ids=ids, skip_first=inputs.skip_first):
            probability[*setting, here], modes[setting] = found, mode
            done += len(found)
            if progress is not None:
                progress("settings", done, inputs.n * len(deltas))
    cells, answers = as_trials(
        loaded, vectors, plan=plan, inputs=inputs, words=tuple(tokens), vapw=probability, modes=modes
    )
    return WordMass(
        plan=plan,
        concept=vector.concept,
        alphas=alphas,
        words=tuple(tokens),
        probability_vapw=probability,
        left_out=left_out,
        vectors=vectors,
        cells=cells,
        answers=answers,
    )


def random_directions(vector: SteeringVector, *, layer: int, n: int, seed: int) -> tuple[SteeringVector, ...]:
    """`n` isotropic directions with the vector's norm at `layer`, each as a vector of its own with its seed."""
    norm = float(np.linalg.norm(direction_at(vector, layer)))
    found = []
    for i in range(n):
        raw = np.random.Generator(np.random.PCG64([seed, i])).normal(size=vector.hidden_size)
        found.append(
            SteeringVector(
                name=f"{vector.name}-random-{i}",
                method="random",
                concept=vector.concept,
                site=vector.site,
                layers=(layer,),
                values=(raw * (norm / np.linalg.norm(raw))).astype(np.float32)[None],
                provenance={
                    "control_kind": "random",
                    "control_seed": seed,
                    "control_index": i,
                    "control_of": vector.vector_id,
                },
                diagnostics=tuple(d for d in vector.diagnostics if d.get("layer") == layer),
                fitted_on=vector.fitted_on,
            )
        )
    return tuple(found)


def _steered(
    prefill: Prefill,
    deltas: dict[tuple[int, int], npt.NDArray[np.float32]],
    *,
    plan: WordMassPlan,
    ids: Sequence[tuple[int, ...]],
    skip_first: bool,
) -> Any:
    """((direction, alpha), how computed, probabilities (b, w)) of every setting over one batch."""
    mask_bt = prefill.mask_of(plan.target, skip_first=skip_first)
    keys = {f"{v} {a}": (v, a) for v, a in deltas}
    cells = [
        BranchCell(key=key, layer=plan.layer, delta_d=deltas[setting], target=mask_bt) for key, setting in keys.items()
    ]
    options = BranchOptions(max_new_tokens=1, memory_budget_bytes=plan.memory_mib * MIB)
    for result in branch_from(prefill, cells, options):
        yield keys[result.key], result.mode, _probabilities(result.logits_bv, ids, result.finite_b)


@torch.inference_mode()
def _probabilities(logits_bv: torch.Tensor, ids: Sequence[tuple[int, ...]], finite_b: torch.Tensor) -> Masses:
    """Probability of every word, shape (b, w): the sum over its tokens; NaN where the forward pass was not finite."""
    p_bv = logits_bv.float().softmax(-1)
    columns = [p_bv[:, list(of_word)].sum(-1) for of_word in ids]
    stacked = torch.stack(columns, dim=1).double()
    found: Masses = torch.where(finite_b[:, None], stacked, torch.nan).cpu().numpy()
    return found


def as_trials(
    loaded: LoadedModel,
    vectors: Sequence[SteeringVector],
    *,
    plan: WordMassPlan,
    inputs: EffectInputs,
    words: tuple[str, ...],
    vapw: Masses,
    modes: Mapping[tuple[int, int], Mode],
) -> tuple[tuple[Cell, ...], tuple[Answer, ...]]:
    """Every setting as a cell (every word of it, with `plan.apart`), every input's probability as the score of an answer;
    alpha 0 is one cell without a vector."""
    scores_of: dict[tuple[str, ...], Masses] = {words: vapw.sum(-1)}
    if plan.apart:
        scores_of = {(word,): vapw[..., w] for w, word in enumerate(words)}
    cells: list[Cell] = []
    answers: list[Answer] = []
    for (v, a), some, cell in settings_as_cells(loaded, vectors, plan=plan, inputs=inputs, words=words):
        cells.append(cell)
        answers += [
            Answer(
                cell_id=cell.cell_id,
                sample_id=sample_id,
                split=inputs.split,
                raw=text,
                score=None if np.isnan(score) else float(score),
                status="failed" if np.isnan(score) else "ok",
                error=NOT_FINITE if np.isnan(score) else None,
                mode=modes[v, a],
            )
            for sample_id, text, score in zip(inputs.sample_ids, inputs.texts, scores_of[some][v, a], strict=True)
        ]
    return tuple(cells), tuple(answers)


def settings_as_cells(
    loaded: LoadedModel,
    vectors: Sequence[SteeringVector],
    *,
    plan: WordMassPlan,
    inputs: EffectInputs,
    words: tuple[str, ...],
) -> tuple[tuple[tuple[int, int], tuple[str, ...], Cell], ...]:
    """((direction, alpha), the words that are scored, the cell) of every setting; with `plan.apart` a cell for every word. The
    model itself, alpha 0, is one setting. The weights are not needed."""
    alphas = tuple(dict.fromkeys((0.0, *plan.alphas)))
    settings = [(0, 0), *((v, a) for v in range(len(vectors)) for a in range(1, len(alphas)))]
    scored = [(word,) for word in words] if plan.apart else [words]
    return tuple(
        (
            (v, a),
            some,
            Cell(
                vector_id=vectors[v].vector_id if a else None,
                layer=plan.layer if a else None,
                alpha=alphas[a],
                target=plan.target,
                alpha_unit=plan.alpha_unit,
                unit_norm=resid_norm(vectors[v], plan.layer) if a and plan.alpha_unit == "resid_norm" else None,
                preprocessing=loaded.spec.tokenizer_digest,
                model_fingerprint=loaded.spec.fingerprint,
                prompt_id=inputs.prompt_id,
                decoding={
                    "score": "next_token_mass",
                    "words": list(plan.words if not plan.apart else some),
                    "forms": plan.forms,
                    "skip_first": inputs.skip_first,
                    "dtype": loaded.spec.dtype,
                },
            ),
        )
        for v, a in settings
        for some in scored
    )
