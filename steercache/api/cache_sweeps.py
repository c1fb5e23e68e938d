"""Evaluations, screenings, sweeps, their tables and pages."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steercache.api.cache_core import CacheCore
from steercache.api.progress import ProgressLike
from steercache.core.operations import Operation, operation_text, read_operation
from steercache.core.trials import CONTROL_KINDS, TRUST, AlphaUnit, ControlKind, Target
from steercache.core.vector_use import PlaceName
from steercache.core.vectors import SteeringVector
from steercache.engines.work import EngineName, EngineOptions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from steercache.api.evaluating import BenchmarkLike, ModelLike
    from steercache.api.sweeps import Sweep
    from steercache.cells.combinations import Combinations
    from steercache.cells.options import ModeRequest
    from steercache.manifests.sweep import SweepTask
    from steercache.screening.job import ScreenedTask
    from steercache.sweeps.result import SweepResult
    from steercache.sweeps.table import SweepTable


class SweepMethods(CacheCore):
    """Evaluations, screenings, sweeps, their tables and pages."""

    def evaluate(
        self,
        model: "ModelLike",
        benchmark: "BenchmarkLike",
        *,
        vectors: Sequence[str | SteeringVector] = (),
        combinations: "Combinations | None" = None,
        methods: Sequence[str] = (),
        layers: int | Sequence[int] = (),
        alphas: float | Sequence[float] = 1.0,
        targets: Target | str | Sequence[Target | str] | None = None,
        alpha_unit: AlphaUnit = "raw",
        operation: Operation | str = "add",
        place: PlaceName | None = None,
        split: Literal["search", "test", "both"] = "both",
        n: int | None = None,
        controls: int = 20,
        control_kinds: Sequence[ControlKind] = CONTROL_KINDS,
        prompting: str | None = None,
        damage: bool = True,
        panel: int = 0,
        panel_tasks: "Sequence[str | SweepTask]" = (),
        max_new_tokens: int | None = None,
        tokens_per_batch: int = 4096,
        memory_mib: int = 2048,
        mode: "ModeRequest" = "auto",
        recalibrate: bool = False,
        seed: int = 0,
        allow_foreign: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        folder: str | PathLike[str] | None = None,
        task: str | None = None,
        rule: Literal["grouped", "paper"] = "grouped",
        form: Literal["letter", "number", "word"] = "letter",
        engine: EngineName = "local",
        workers: int = 1,
        address: str | None = None,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        mixed_numerics: bool = False,
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> "SweepResult":
        """Answer a benchmark unsteered, prompted in words, steered, and under controls; compare, and keep every answer.

        `benchmark` is a name, such as "scenes", or a .jsonl, .csv or .parquet file of your own questions (columns `question`
        and `answer`, and any of `choices`, `image`, `group`, `task`, `split`); without pictures a text model answers it too.
        `folder` is where a named benchmark was downloaded to, or where the pictures of your own questions lie (None: beside
        the file).
        `operation` is what is done with the vector, and `place` where in the block, as in `steer` (None: where it belongs).
        `targets` are the tokens that are steered, by name or as SQL, "sql: kind = 'image' and patch_row < 3" (None: the image
        tokens, or the text of questions without pictures).

        `combinations` are several vectors at once, by name: lists of `Steering(vector=..., layer=..., alpha=..., operation=...,
        target=...)`. Each is one cell, competes beside the vectors, and has controls of its own: a control in place of every
        vector. Parts at a lower layer act first, at one layer in the order listed.

        With several `layers`, `alphas` or `targets` every vector and control takes its best on the search split and is held to
        it on the test split. `methods` adds the newest vectors of the same concept and run by each of these. `controls`
        directions of `control_kinds` per vector get the same choice. `prompting` is the sentence of the prompting baseline
        (None: the concept's own; "" leaves it out). `n` questions per split (None: all). `damage` also measures the KL
        divergence of the next-token distribution on unrelated prompts. Answers the cache has are not computed again.

        `panel` questions of each unrelated task show what the chosen cells do there (`row.side_effects`): `panel_tasks` by name
        ("scenes:Relation", or a file of questions); without any, the drawn scenes' tasks that are not evaluated.

        `max_new_tokens` per answer (None: 8 for letters and counts, 20 for words). A batch has at most `tokens_per_batch`
        padded tokens and takes `memory_mib` MiB beside the weights. `mode` is how answers are computed: "auto" takes the
        quickest exact mode by costs measured on this machine (again with `recalibrate`).

        `workers` processes answer batches of questions side by side, on the `engine` "local" or "ray" (as in `build`); each
        loads the model itself, so `model` is a name or a path. The answers are the same. A worker whose numerics differ is left
        out with a note (`on_note`); with `mixed_numerics` it takes part, and the stored evaluation records it.

        Raises:
            UsageError: a vector that does not fit the model, a layer it does not have, an unknown benchmark or task.
            NotFoundError: a vector, model or file is missing. PartlyFailedError: no question could be encoded.
        """
        from steercache.api.engines import Where
        from steercache.api.evaluating import (
            ComputeOptions,
            ControlOptions,
            DecodingOptions,
            EvalOptions,
            GridAxes,
            evaluate_vectors,
            opened_benchmark,
        )
        from steercache.api.evaluating import panel_tasks as read_tasks
        from steercache.benchmarks.task import default_targets

        files = None if folder is None else Path(folder)
        questions = opened_benchmark(benchmark, folder=files, task=task, rule=rule, form=form)
        named = default_targets(questions) if targets is None else targets
        options = EvalOptions(
            axes=GridAxes(
                layers=_several(layers) or (0,),
                alphas=tuple(map(float, _several(alphas))),
                targets=(named,) if isinstance(named, str) else tuple(named),
                alpha_unit=alpha_unit,
                operation=operation_text(read_operation(operation)),
                place=place,
            ),
            decoding=DecodingOptions(max_new_tokens=max_new_tokens),
            compute=ComputeOptions(
                tokens_per_batch=tokens_per_batch, memory_mib=memory_mib, mode=mode, recalibrate=recalibrate
            ),
            controls=ControlOptions(count=controls, kinds=tuple(control_kinds)),
            split=split,
            n=n,
            prompting=prompting,
            damage=damage,
            panel=panel,
            panel_tasks=read_tasks(panel_tasks),
            seed=seed,
            allow_foreign=allow_foreign,
        )
        return evaluate_vectors(
            self._session,
            model,
            questions,
            vectors=vectors,
            combinations=combinations or {},
            methods=methods,
            options=options,
            device=device,
            dtype=dtype,
            where=Where(
                engine=EngineOptions(
                    name=engine,
                    workers=workers,
                    address=address,
                    cpus_per_worker=cpus_per_worker,
                    gpus_per_worker=gpus_per_worker,
                ),
                mixed_numerics=mixed_numerics,
                on_note=on_note or (lambda note: None),
            ),
            progress=progress,
        )

    def screen(
        self,
        model: str,
        benchmark: "BenchmarkLike",
        *,
        vectors: Sequence[str | SteeringVector] = (),
        all_vectors: bool = False,
        layers: int | Sequence[int] = (),
        alphas: float | Sequence[float] = 1.0,
        targets: Target | str | Sequence[Target | str] | None = None,
        alpha_unit: AlphaUnit = "raw",
        n: int | None = None,
        allow_foreign: bool = False,
        trust: float = TRUST,
        gradients: str | None = None,
        force: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        folder: str | PathLike[str] | None = None,
        task: str | None = None,
        rule: Literal["grouped", "paper"] = "grouped",
        form: Literal["letter", "number", "word"] = "letter",
        progress: ProgressLike = None,
    ) -> "ScreenedTask":
        """Predict what every vector does at every layer and strength, from gradients of the answer margin; none is run.

        Gradients over the search split are recorded once and kept as a run; from then on no model is loaded. `vectors`, or
        with `all_vectors` every one of the cache that fits the model, at `layers` (none: all that they share). Predictions are
        straight lines, held at `trust` median norms of the steered rows. `gradients` names the gradient run to use; `force`
        continues one under other numerics. The other parameters are those of `evaluate`. `found.grid.best(10)` are the best
        cells.

        Raises:
            UsageError: no vector, or one that does not fit the model; an unknown benchmark or task; stale gradients.
            NotFoundError: a vector, model, run or file is missing. PartlyFailedError: no question can be encoded.
        """
        from steercache.api.screening import ScreenRequest, screen_benchmark

        request = ScreenRequest(
            vectors=tuple(vectors),
            all_vectors=all_vectors,
            layers=_several(layers),
            alphas=tuple(map(float, _several(alphas))),
            targets=None if targets is None else (targets,) if isinstance(targets, str) else tuple(targets),
            alpha_unit=alpha_unit,
            n=n,
            allow_foreign=allow_foreign,
            trust=trust,
            gradients=gradients,
            force=force,
        )
        return screen_benchmark(
            self._session,
            model,
            benchmark,
            request,
            device=device,
            dtype=dtype,
            task=task,
            rule=rule,
            form=form,
            folder=None if folder is None else Path(folder),
            progress=progress,
        )

    def sweep(self, manifest: str | PathLike[str], *, device: str = "auto", dtype: str = "auto") -> "Sweep":
        """The sweep of a manifest, by name or file; plan, screen and run it. Raises NotFoundError, ManifestError."""
        from steercache.api.sweeps import open_sweep

        return open_sweep(
            self._session, Path(manifest) if not isinstance(manifest, str) else manifest, device=device, dtype=dtype
        )

    def steered_tokens(self, cell_id: str) -> "dict[str, npt.NDArray[np.float32]]":
        """The tokens that were steered in a cell whose target is SQL: weights (t,) by sample id, up to the last one that is
        selected, 0 where a token is not and 1 where it has no weight. `cell_id` is that of the tables `cells` and `answers`.
        Empty for targets by name, which follow from the tokens' kinds.

        Raises:
            NotFoundError: the cache has no such cell. DamagedError: the file that holds them cannot be read.
        """
        from steercache.answers.target_tokens import selected_in_cell

        return selected_in_cell(self._session.cache, cell_id)

    def table(self, sweep: "str | SweepResult") -> "SweepTable":
        """The table of a stored sweep or evaluation: what `evaluate`, `Sweep.run`, the terminal and the HTML page show.

        `table.rows` has every arm against the model without a vector, `table.cells` every cell of the search split, and
        `table.records()` plain values for a data frame. `sweep` is a name, an id, a unique prefix, or a result.

        Raises:
            NotFoundError: no such sweep. UsageError: its answers are neither right nor wrong.
        """
        from steercache.sweeps.find import read_sweep

        return read_sweep(self._session, _sweep_name(sweep))

    def report(
        self, sweep: "str | SweepResult | Sequence[str | SweepResult]", path: str | PathLike[str] | None = None
    ) -> Path:
        """Write one self-contained HTML page about a stored sweep, or about several side by side, and return the file.

        `sweep` is a name, an id, a unique prefix, what `evaluate` returned, or a list of these; without `path` the page lies
        below the cache's `pictures/`. Accuracy with intervals and controls first, then how the settings came about and single
        questions before and after; what the cache lacks is named. Made from the cache alone: no model, no network.

        Raises:
            NotFoundError: no such sweep. MissingExtraError: no altair.
        """
        from steercache.api.reporting import write_report

        several = [sweep] if isinstance(sweep, str) or not isinstance(sweep, Sequence) else list(sweep)
        names = [_sweep_name(one) for one in several]
        return write_report(self._session, names, None if path is None else Path(path)).path


def _sweep_name(sweep: "str | SweepResult") -> str:
    return sweep if isinstance(sweep, str) else sweep.sweep_id


def _several(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, Sequence) else (values,)
