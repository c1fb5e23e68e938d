"""The paper's further questions over a cache: words, colours, patches, drift, own against backbone vectors."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steercache.api.cache_core import CacheCore
from steercache.api.progress import ProgressLike
from steercache.api.runs import Run
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vectors import SteeringVector

if TYPE_CHECKING:
    from steercache.analysis.colours import ColourEffect
    from steercache.analysis.drift import Drift
    from steercache.analysis.origins import Origins
    from steercache.analysis.patches import PatchMaps
    from steercache.api.analyses import WordEffect
    from steercache.api.evaluating import BenchmarkLike, ModelLike
    from steercache.models.spec import LoadedModel


class AnalysisMethods(CacheCore):
    """Words, colours, patches, drift, own against backbone vectors."""

    def words(
        self,
        vector: str | SteeringVector,
        *,
        layer: int,
        alphas: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
        alpha_unit: AlphaUnit = "raw",
        target: Target = "text",
        words: Sequence[str] = (),
        prompts: Sequence[str] = (),
        n_random: int = 20,
        seed: int = 0,
        model: "str | LoadedModel | None" = None,
        device: str = "auto",
        dtype: str = "auto",
        allow_foreign: bool = False,
        progress: ProgressLike = None,
    ) -> "WordEffect":
        """Follow the probability that one of a concept's words comes next, by strength, beside random directions.

        Without `words`, those listed for the vector's concept; without `prompts`, 16 neutral ones. `n_random` directions have
        the vector's norm at `layer`. The model is that of the vector's run unless `model` names another. Answers are kept, and
        read again where they are. `found.effect.mass_vap` has shape (directions, alphas, inputs), the vector first.

        Raises:
            UsageError: no words are listed for the concept, no strength but 0, or other weights and that is not allowed.
            NotFoundError: no such vector or model.
        """
        from steercache.api import analyses
        from steercache.api.evaluating import found_vectors

        (direction,) = found_vectors(self._session, [vector])
        plan = analyses.word_plan(
            direction,
            layer=layer,
            alphas=alphas,
            alpha_unit=alpha_unit,
            target=target,
            words=words,
            prompts=prompts,
            n_random=n_random,
            seed=seed,
        )
        return analyses.words(
            self._session,
            direction,
            plan,
            model=model,
            device=device,
            dtype=dtype,
            allow_foreign=allow_foreign,
            progress=progress,
        )

    def colours(
        self,
        model: "ModelLike",
        vector: str | SteeringVector,
        *,
        layer: int,
        alphas: Sequence[float] = (),
        alpha_unit: AlphaUnit = "raw",
        target: Target = "image",
        word: str | None = None,
        n: int | None = 48,
        n_random: int = 20,
        open_question: bool = False,
        shifted: bool = False,
        tokens_per_batch: int = 4096,
        memory_mib: int = 1024,
        seed: int = 0,
        allow_foreign: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        progress: ProgressLike = None,
    ) -> "ColourEffect":
        """Ask for the colours of drawn things with a colour's vector on the image tokens, and follow the colour words.

        The right answer is always another colour; only the search split of `scenes` (or `scenes-shifted`, with other outlines
        and palettes) is asked. `word` is the colour that the vector stands for (None: its concept). Without `alphas`, up to
        four times the length of a median target row. `n` questions (None: all); `open_question` asks without choices.
        A batch has at most `tokens_per_batch` padded tokens and takes `memory_mib` MiB beside the weights.

        Raises:
            UsageError: a text model, a vector that does not fit it, or a word that is no single token.
            NotFoundError: no such vector or model.
        """
        from steercache.api import analyses

        options = analyses.ColourOptions(
            layer=layer,
            alphas=tuple(float(alpha) for alpha in alphas if alpha != 0),
            alpha_unit=alpha_unit,
            target=target,
            word=word,
            n=n,
            n_random=n_random,
            open_question=open_question,
            tokens_per_batch=tokens_per_batch,
            memory_mib=memory_mib,
            seed=seed,
            allow_foreign=allow_foreign,
        )
        return analyses.colours(
            self._session, model, vector, options, shifted=shifted, device=device, dtype=dtype, progress=progress
        )

    def own(
        self,
        model: "ModelLike",
        benchmark: "BenchmarkLike",
        *,
        concept: str,
        layers: int | Sequence[int],
        method: str = "mean_shift",
        alphas: float | Sequence[float] = 1.0,
        alpha_unit: AlphaUnit = "raw",
        target: Target = "image",
        split: Literal["search", "test", "both"] = "both",
        n: int | None = None,
        controls: int = 20,
        seed: int = 0,
        folder: str | PathLike[str] | None = None,
        task: str | None = None,
        form: Literal["letter", "number", "word"] = "letter",
        device: str = "auto",
        dtype: str = "auto",
        progress: ProgressLike = None,
    ) -> "Origins":
        """Evaluate the vector of a model's own activations and its text backbone's on a benchmark, and compare the two.

        Both are the newest of their concept and method; each takes its best of `layers` and `alphas` on the search split. The
        other parameters are those of `evaluate`. `found.direct` compares them on the same questions, by split.

        Raises:
            NotFoundError: one of the vectors is missing. UsageError: both have one name, or one does not fit the model.
        """
        from steercache.api.analyses import own_against_backbone
        from steercache.api.evaluating import ControlOptions, EvalOptions, GridAxes, loaded_model, opened_benchmark

        options = EvalOptions(
            axes=GridAxes(
                layers=(layers,) if isinstance(layers, int) else tuple(layers),
                alphas=tuple(map(float, alphas)) if isinstance(alphas, Sequence) else (float(alphas),),
                targets=(target,),
                alpha_unit=alpha_unit,
            ),
            controls=ControlOptions(count=controls),
            split=split,
            n=n,
            prompting="",
            seed=seed,
        )
        place = None if folder is None else Path(folder)
        questions = opened_benchmark(benchmark, folder=place, task=task, form=form)
        loaded = loaded_model(model, self._session.cache.root, device=device, dtype=dtype)
        return own_against_backbone(
            self._session, loaded, questions, concept=concept, options=options, method=method, progress=progress
        )

    def drift(
        self,
        run: str | Run,
        other: str | Run,
        *,
        site: str = "resid_post",
        layers: Sequence[int] | None = None,
        text_only: bool = False,
        progress: ProgressLike = None,
    ) -> "Drift":
        """Compare the rows of two runs on the tokens that both read: cosine and relative distance, per layer and role of token.

        `layers` are zero-based blocks (None: all that both kept); `text_only` matches inputs by their text tokens alone. The
        relative distance is that of the two rows over the norm of the first. See `steercache.api.analyses.drift`.

        Raises:
            NotFoundError: no such run. UsageError: the runs share no tokens or layers.
        """
        from steercache.api.analyses import drift

        return drift(
            self._session, str(run), str(other), site=site, layers=layers, text_only=text_only, progress=progress
        )

    def patches(
        self,
        run: str | Run,
        sample: str | int,
        vector: str | SteeringVector,
        *,
        layers: Sequence[int],
        view: Literal["fine", "small"] = "fine",
        allow_foreign: bool = False,
    ) -> "PatchMaps":
        """Projections of a picture's image rows on a vector at unit norm, as a (rows, columns) map of its patches per layer.

        `sample` is its number in the run, its id, or a prefix of the id of six characters or more. `view` chooses, for a model
        that reads a picture as tiles and as a whole, the view with the most ("fine") or the fewest patches ("small").

        Raises:
            NotFoundError: no such run, sample or vector. UsageError: the run kept no image rows at these layers, or the vector
                was fitted on other weights and that is not allowed.
        """
        from steercache.api.analyses import patches

        return patches(self._session, str(run), sample, vector, layers=layers, view=view, allow_foreign=allow_foreign)
