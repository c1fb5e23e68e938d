"""`steercache.open` and `Cache`: everything the command line does to one cache, from Python.

Methods that run a model import torch when they are called, so that opening a cache, SQL and fitting stay quick and work without
it.
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from steercache.api.maintenance import Removed, Verified, verify
from steercache.api.paths import default_root
from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run, run_of
from steercache.cache.compact import Compacted, compact_run
from steercache.cache.handle import CacheFolder as CacheFolder
from steercache.cache.handle import open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.remove import Leftover, collect, leftovers, remove_damaged_shards, remove_run
from steercache.cache.status import CacheStatus, cache_status
from steercache.cache.vectors import list_vectors
from steercache.core.layout import CodecName
from steercache.core.selection import Selection
from steercache.core.trials import CONTROL_KINDS, TRUST, AlphaUnit, ControlKind, Target
from steercache.core.vectors import SteeringVector
from steercache.index.guard import Limits
from steercache.index.relation import Relation
from steercache.queries.formats import FormatName
from steercache.queries.library import Query, load_library
from steercache.queries.session import Session

if TYPE_CHECKING:
    import pyarrow as pa

    from steercache.analysis.drift import Drift
    from steercache.analysis.patches import PatchMaps
    from steercache.api.evaluating import BenchmarkLike, ModelLike
    from steercache.api.fitting import MethodName
    from steercache.api.sae_encoding import EncodedRun
    from steercache.api.saes import NamedSae
    from steercache.api.sweeps import Sweep
    from steercache.api.tracing import TraceLike
    from steercache.cache.vector_files import StoredVector
    from steercache.manifests.sae import SaeManifest
    from steercache.models.spec import LoadedModel
    from steercache.runs.overview import Overview
    from steercache.sae.health import Health
    from steercache.sae.loaded import LoadedSae
    from steercache.screening.job import ScreenedTask
    from steercache.steering.generate import SideBySide
    from steercache.sweeps.result import SweepResult
    from steercache.sweeps.table import SweepTable


class Cache:
    """One cache: runs of activations, vectors and sweeps below a root folder, and SQL over all of it.

    Holds no file open: each call opens the index for its own length, so that builds, other notebooks and a `duckdb` shell can
    use the cache at the same time. Make one with `steercache.open`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def root(self) -> Path:
        """The cache's folder."""
        return self._session.cache.root

    @property
    def folder(self) -> CacheFolder:
        """The files and the index behind this object, for code of the package itself."""
        return self._session.cache

    @property
    def session(self) -> Session:
        """What asks the cache's queries, for code of the package itself."""
        return self._session

    def __repr__(self) -> str:
        return f"<Cache {str(self.root)!r}>"

    # Queries

    def sql(self, sql: str, /, *, tables: Mapping[str, Any] | None = None, **bindings: Any) -> Relation:
        """The result of one SELECT as a DuckDB relation (`.df()`, `.pl()`, `.to_arrow_table()`, `.fetchall()`).

        `$name` in the text takes the value of the keyword `name`. `tables` maps names to pandas or polars frames or Arrow
        tables of yours that the query can join.

        Raises:
            QueryError: the SQL, a binding or a table is wrong or not allowed, or a limit was reached.
        """
        return self._session.sql(sql, tables=tables, **bindings)

    def query(self, name_or_sql: str, /, **bindings: Any) -> Relation:
        """The result of a named query, of a query file's text, or of SQL; `queries()` lists the names.

        Raises:
            NotFoundError: no query has that name. QueryError: as `sql`.
        """
        return self._session.query(name_or_sql, **bindings)

    def head(self, name_or_sql: str, n: int = 20, *, bindings: Mapping[str, Any] | None = None) -> "pa.Table":
        """The first `n` rows of a query as an Arrow table; what follows is not computed. Raises as `query`."""
        from steercache.api.querying import head

        return head(self._session, name_or_sql, n, bindings or {})

    def write(
        self,
        name_or_sql: str,
        sink: str | PathLike[str] | BinaryIO,
        *,
        format: FormatName = "parquet",  # noqa: A002
        limit: int | None = None,
        bindings: Mapping[str, Any] | None = None,
    ) -> int:
        """Write a query's result to a file, or into an open binary file, batch by batch; returns the number of rows.

        A file takes its name only when it is complete. `limit` stops after so many rows.

        Raises:
            QueryError, NotFoundError: as `query`. UsageError: the file cannot be written.
        """
        from steercache.api.querying import write

        file = Path(sink) if isinstance(sink, str | PathLike) else sink
        return write(self._session, name_or_sql, bindings or {}, sink=file, format_name=format, limit=limit)

    def queries(self) -> Mapping[str, Query]:
        """The named queries by name: those that ship and those of the folders given to `steercache.open`."""
        return self._session.library

    def find_query(self, name_or_sql: str) -> Query | None:
        """The named query, or the query that a text with a header is; None for plain SQL.

        Raises:
            NotFoundError: no query has that name. QueryError: the header is wrong.
        """
        return self._session.read(name_or_sql)[0]

    def select(
        self, name_or_sql: str, /, *, run: str | Run | None = None, site: str = "resid_post", **bindings: Any
    ) -> Selection:
        """Rows that a query picks, ready to be gathered or fitted.

        `run` is a run, its name, id or a unique prefix; without it, the newest complete text run that has the concept.

        Raises:
            QueryError: as `sql`; or the rows belong to several runs, were picked twice, or were not kept.
            NotFoundError: no such query or run, or the run does not have `site`.
        """
        return self._session.select(name_or_sql, run=_run_name(run), site=site, **bindings)

    def select_isolated(
        self,
        name_or_sql: str,
        /,
        *,
        run: str | Run | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
    ) -> Selection:
        """As `select`, for SQL that you did not write: it runs in a process of its own, with limits that hold from outside.

        Time and memory are those of `steercache.open(limits=...)`; a query that ships runs in this process. Costs about a
        second more. `fit`, `refit` and queries of your own folders do this by themselves.

        Raises:
            QueryError: as `select`; or the process had to be ended. NotFoundError: as `select`.
        """
        return self._session.select_isolated(name_or_sql, run=_run_name(run), site=site, bindings=bindings)

    def runs(self) -> Relation:
        """Every run, newest first: one row with name, model, rows, size and status."""
        return self._session.runs()

    def vectors(self, *, controls: bool = False) -> Relation:
        """Every vector, newest first: one row with id, name, method, concept, layers, best layer and run.

        With `controls`, the random, permuted and null directions of evaluations too.
        """
        return self._session.query("vectors_overview", controls=controls)

    def sweeps(self) -> Relation:
        """Every sweep (a grid, an evaluation, an analysis), newest first: one row with id, name, status and counts."""
        return self._session.query("sweeps_overview")

    # Features of SAEs

    def encode(
        self,
        sae: "str | PathLike[str] | LoadedSae",
        *,
        run: str | Run | None = None,
        layer: int | None = None,
        device: str = "auto",
        allow_foreign: bool = False,
        progress: ProgressLike = None,
    ) -> "EncodedRun":
        """Encode the rows of a run with a sparse autoencoder (SAE), and keep what fires, sparse, in the cache.

        `sae` is a manifest's name or file, one layer of it as `NAME-l12`, a folder that sae-lens wrote, or an SAE in memory;
        `layer` chooses among the SAEs of a manifest. Without `run`, the newest complete text run. All stored rows of the SAE's
        site and layer are encoded; the result reads them (`.read(selection)`), and SQL has them as `feature_acts`. Safe to
        interrupt: calling it again continues. What is there already is not computed again, unless the run has another
        generation in force since. `allow_foreign` takes an SAE of another model or BOS convention, with a warning.

        Raises:
            NotFoundError: no such SAE or run, or the SAE's files are not on this machine. UsageError: the SAE does not fit the
            run. BusyError: another process encodes the run. BudgetError: the disk is full. MissingExtraError: no sae-lens.
        """
        from steercache.api.sae_encoding import encode

        with reporting(progress) as show:
            return encode(
                self._session,
                sae,
                _run_name(run),
                layer=layer,
                device=device,
                allow_foreign=allow_foreign,
                show=show,
            )

    def encoded(self, sae: str, *, run: str | Run | None = None) -> "EncodedRun":
        """A run's rows that were encoded with an SAE, by name, id or prefix of the SAE; sae-lens is not needed.

        Raises:
            NotFoundError: no run, or not this one, was encoded with it. QueryError: several were, and `run` is not given.
        """
        from steercache.api.sae_encoding import find_encoded

        return find_encoded(self._session.cache, sae, _run_name(run))

    def encodings(self) -> "list[EncodedRun]":
        """Every run that is encoded with an SAE."""
        from steercache.api.sae_encoding import encoded_runs

        return encoded_runs(self._session.cache)

    def sae_health(
        self,
        sae: "str | PathLike[str] | LoadedSae",
        *,
        run: str | Run | None = None,
        model: "str | LoadedModel | None" = None,
        layer: int | None = None,
        n_texts: int = 100,
        device: str = "auto",
        allow_foreign: bool = False,
        progress: ProgressLike = None,
    ) -> "Health":
        """How well an SAE describes the rows of a run, by kind of row (text, image, special; first positions apart).

        Explained variance, cosine, mean squared error, features that fire per row, dead and dense features, computed from the
        cached rows and kept beside the encoding. With `model`, the run's own, also the cross-entropy of the next token over
        the run's first `n_texts` texts with the reconstruction in the place of the layer's output, and the share of the loss
        that it recovers from zero ablation and from ablation by the mean.

        Raises:
            NotFoundError, MissingExtraError: as `encode`. UsageError: the SAE does not fit the run, or, with a model, the run
            has pictures or was traced with other weights.
        """
        from steercache.api.sae_encoding import sae_health

        with reporting(progress) as show:
            return sae_health(
                self,
                sae,
                _run_name(run),
                model=model,
                layer=layer,
                n_texts=n_texts,
                device=device,
                allow_foreign=allow_foreign,
                show=show,
            )

    # Runs

    def run(self, name: str) -> Run:
        """The run that has this name, id or unique prefix; of several with one name the newest. Raises NotFoundError."""
        cache = self._session.cache
        return run_of(cache.run_document(cache.resolve_run(name)))

    def plan(
        self,
        trace: "TraceLike",
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        progress: ProgressLike = None,
    ) -> "Overview":
        """What `build` would write, what is cached already, and about how long it takes; nothing is computed.

        Raises:
            ManifestError, NotFoundError, UsageError: as `build`.
        """
        from steercache.api.tracing import plan_trace

        return plan_trace(
            self._session.cache, self.root, trace, model=model, device=device, dtype=dtype, progress=progress
        )

    def build(
        self,
        trace: "TraceLike",
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | None = None,
        workers: int = 1,
        budget_gb: float | None = None,
        force: bool = False,
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Run:
        """Trace a model into the cache, and return the run. What is cached already is not traced again.

        `trace` is a shipped trace's name, a manifest's file, a `TraceManifest`, or a data file (.csv, .jsonl, .parquet, .txt)
        together with the name of a `model`. Safe to interrupt at any moment: calling it again continues, and loses at most the
        shard that was being written. `workers` processes trace shards side by side; `budget_gb` overrides the manifest's limit
        on what may be written; `force` resumes under other numerics than the run began with, and records that.
        `on_note` is called with each remark as it is made; the run's `notes` hold all of them.

        Raises:
            ManifestError: what is wrong with the manifest or the samples, all problems at once.
            NotFoundError: a manifest, model or file is missing. BusyError: another process builds this run.
            BudgetError: over the budget, or the disk is full. UsageError: begun under other numerics.
        """
        from steercache.api.tracing import build_trace

        return build_trace(
            self._session.cache,
            trace,
            model=model,
            device=device,
            dtype=dtype,
            device_map=device_map,
            workers=workers,
            budget_gb=budget_gb,
            force=force,
            progress=progress,
            on_note=on_note,
        )

    # Vectors

    def fit(
        self,
        method: "MethodName" = "mean_shift",
        *,
        concept: str | None = None,
        all_concepts: bool = False,
        query: str | None = None,
        run: str | Run | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
        recipe: Literal["default", "paper"] = "default",
        layers: Sequence[int] | None = None,
        name: str | None = None,
        seed: int = 0,
        diagnose: bool = True,
        progress: ProgressLike = None,
    ) -> list[SteeringVector]:
        """Fit a vector for a concept (or one per concept of the run), diagnose it, save it, and return all of them.

        `query` is a named selection or SQL, `bindings` its parameters; without one, anchors against controls, or the last
        tokens of contrastive pairs where the run has only pairs. Without `run`, the newest complete text run that has the
        concept. A vector is named after its concept, or, for pairs without one, after its run. `seed` is that of the paper's
        probe. `diagnose` also measures held-out AUC (vector and token only), norms and stability per layer.

        Raises:
            UsageError: no such method or layer; both `concept` and `all_concepts`. QueryError: the query, or no rows.
            NotFoundError: no such run, or no sample with a concept.
        """
        from steercache.api.fitting import FitRequest, fit_vectors

        request = FitRequest(
            concept=concept,
            all_concepts=all_concepts,
            query=query,
            run=_run_name(run),
            site=site,
            bindings=bindings or {},
            recipe=recipe,
            layers=layers,
            name=name,
            seed=seed,
            diagnose=diagnose,
        )
        return fit_vectors(self._session, method, request, progress=progress)

    def stored_vectors(self) -> "list[StoredVector]":
        """Every vector with the time it was saved, newest first; controls of evaluations too."""
        return list_vectors(self._session.cache)

    def compare(self, *names: str) -> list[dict[str, Any]]:
        """Cosines between stored vectors: per layer that all have, {"layer", "cosines": {"first ~ second": cosine}}.

        Raises:
            NotFoundError: no such vector. UsageError: fewer than two, other widths, or no layer in common.
        """
        from steercache.fit import compare

        return compare([self.vector(name) for name in names])

    def vector(self, name: str) -> SteeringVector:
        """The vector that has this name, id or unique prefix. Raises NotFoundError."""
        return self._session.vector(name)

    def save(self, vector: SteeringVector) -> Path:
        """Keep a vector in the cache; returns its file. Diagnostics that it does not bring are kept.

        Raises:
            UsageError: the same vector is saved under another name.
        """
        return self._session.save(vector)

    def refit(self, name: str) -> SteeringVector:
        """Fit a stored vector again from its provenance; it is not saved. Raises as `steercache.fit.refit`."""
        from steercache.fit import refit

        return refit(self.vector(name), self._session)

    # Sparse autoencoders

    def sae(
        self, name: "str | PathLike[str] | SaeManifest", *, layer: int | None = None, device: str = "cpu"
    ) -> "LoadedSae":
        """Load an SAE by manifest, `NAME-l12` or folder, from this machine's files; see `steercache.load_sae`."""
        from steercache.api.saes import load_sae

        return load_sae(name, layer=layer, device=device)

    def saes(self) -> "list[NamedSae]":
        """The SAEs that can be named: those of the manifests in the current folder, and those that ship."""
        from steercache.api.saes import list_saes

        return list_saes()

    # Models, evaluation and sweeps

    def model(
        self, name: str | PathLike[str], *, device: str = "auto", dtype: str = "auto", device_map: str | None = None
    ) -> "LoadedModel":
        """Load a model, with conversions kept in this cache; see `steercache.load`."""
        from steercache.api.models import load

        return load(name, device=device, dtype=dtype, device_map=device_map, root=self.root)

    def model_of(
        self,
        vector: str | SteeringVector,
        model: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        allow_foreign: bool = False,
    ) -> "LoadedModel":
        """Load the model that a vector was fitted on, or the one that is named.

        Raises:
            UsageError: the vector does not say which model it belongs to, or the model has other weights and that is not
                allowed. NotFoundError: no such vector or model.
        """
        from steercache.cells.vector_model import load_model_of

        direction = self.vector(vector) if isinstance(vector, str) else vector
        return load_model_of(self.folder, direction, model, device=device, dtype=dtype, allow_foreign=allow_foreign)

    def generate(
        self,
        vector: str | SteeringVector,
        prompts: str | Sequence[str],
        *,
        layer: int,
        alphas: Sequence[float] = (1.0,),
        alpha_unit: AlphaUnit = "raw",
        target: Target = "all",
        when: Literal["prefill", "every"] = "prefill",
        skip_first: bool = False,
        max_new_tokens: int = 20,
        chat: bool = False,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        allow_foreign: bool = False,
    ) -> "list[SideBySide]":
        """Texts with and without a stored vector, side by side, by the model it was fitted on; see `steercache.generate`.

        Texts are kept as the answers of a sweep; the same call again reads them.

        Raises:
            UsageError: a layer, target or strength that cannot be; other weights. NotFoundError: no such vector or model.
        """
        from steercache.api.generating import text_plan, write_texts

        plan = text_plan(
            prompts,
            layer=layer,
            alphas=alphas,
            alpha_unit=alpha_unit,
            target=target,
            when=when,
            skip_first=skip_first,
            max_new_tokens=max_new_tokens,
            chat=chat,
        )
        direction = self.vector(vector) if isinstance(vector, str) else vector
        return write_texts(
            self.folder, direction, plan, model=model, device=device, dtype=dtype, allow_foreign=allow_foreign
        ).texts

    def evaluate(
        self,
        model: "ModelLike",
        benchmark: "BenchmarkLike",
        *,
        vectors: Sequence[str | SteeringVector] = (),
        methods: Sequence[str] = (),
        layers: int | Sequence[int] = (),
        alphas: float | Sequence[float] = 1.0,
        targets: Target | Sequence[Target] | None = None,
        alpha_unit: AlphaUnit = "raw",
        split: Literal["search", "test", "both"] = "both",
        n: int | None = None,
        controls: int = 20,
        control_kinds: Sequence[ControlKind] = CONTROL_KINDS,
        prompting: str | None = None,
        damage: bool = True,
        max_new_tokens: int | None = None,
        tokens_per_batch: int = 4096,
        memory_mib: int = 2048,
        mode: Literal["auto", "replay", "branch", "full"] | None = None,
        recalibrate: bool = False,
        seed: int = 0,
        allow_foreign: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        folder: str | PathLike[str] | None = None,
        task: str | None = None,
        rule: Literal["grouped", "paper"] = "grouped",
        form: Literal["letter", "number", "word"] = "letter",
        progress: ProgressLike = None,
    ) -> "SweepResult":
        """Answer a benchmark unsteered, prompted in words, steered, and under controls; compare, and keep every answer.

        `benchmark` is a name, such as "scenes", or a .jsonl, .csv or .parquet file of your own questions (columns `question`
        and `answer`, and any of `choices`, `image`, `group`, `task`, `split`); without pictures a text model answers it too.
        `folder` is where a named benchmark was downloaded to, or where the pictures of your own questions lie (None: beside
        the file).
        `targets` are the tokens that are steered (None: the image tokens, or the text of questions without pictures).

        With several `layers`, `alphas` or `targets` every vector and control takes its best on the search split and is held to
        it on the test split. `methods` adds the newest vectors of the same concept and run by each of these. `controls`
        directions of `control_kinds` per vector get the same choice. `prompting` is the sentence of the prompting baseline
        (None: the concept's own; "" leaves it out). `n` questions per split (None: all). `damage` also measures the KL
        divergence of the next-token distribution on unrelated prompts. Answers the cache has are not computed again.

        `max_new_tokens` per answer (None: 8 for letters and counts, 20 for words). A batch has at most `tokens_per_batch`
        padded tokens and takes `memory_mib` MiB beside the weights. `mode` is how answers are computed: "auto" takes the
        quickest exact way by costs measured on this machine (again with `recalibrate`), None branches.

        Raises:
            UsageError: a vector that does not fit the model, a layer it does not have, an unknown benchmark or task.
            NotFoundError: a vector, model or file is missing. PartlyFailedError: no question could be asked.
        """
        from steercache.api.evaluating import evaluate_vectors, opened_benchmark
        from steercache.benchmarks.task import default_targets
        from steercache.cells.arms import EvalOptions

        place = None if folder is None else Path(folder)
        questions = opened_benchmark(benchmark, folder=place, task=task, rule=rule, form=form)
        named = default_targets(questions) if targets is None else targets
        options = EvalOptions(
            layers=_several(layers) or (0,),
            alphas=_several(alphas),
            targets=(named,) if isinstance(named, str) else tuple(named),
            alpha_unit=alpha_unit,
            split=split,
            n=n,
            controls=controls,
            control_kinds=tuple(control_kinds),
            prompting=prompting,
            damage=damage,
            max_new_tokens=max_new_tokens,
            tokens_per_batch=tokens_per_batch,
            memory_mib=memory_mib,
            mode=mode,
            recalibrate=recalibrate,
            seed=seed,
            allow_foreign=allow_foreign,
        )
        return evaluate_vectors(
            self._session,
            model,
            questions,
            vectors=vectors,
            methods=methods,
            options=options,
            device=device,
            dtype=dtype,
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
        targets: Target | Sequence[Target] | None = None,
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
            NotFoundError: a vector, model, run or file is missing. PartlyFailedError: no question can be asked.
        """
        from steercache.api.screening import ScreenRequest, screen_benchmark

        request = ScreenRequest(
            vectors=tuple(vectors),
            all_vectors=all_vectors,
            layers=_several(layers),
            alphas=_several(alphas),
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

    def table(self, sweep: str) -> "SweepTable":
        """The table of a stored sweep or evaluation: what `evaluate`, `Sweep.run`, the terminal and the HTML page show.

        `table.rows` has every arm against the model without a vector, `table.cells` every cell of the search split, and
        `table.records()` plain values for a data frame.

        Raises:
            NotFoundError: no such sweep. UsageError: its answers are neither right nor wrong.
        """
        from steercache.sweeps.find import read_sweep

        return read_sweep(self._session, sweep)

    def report(self, sweep: str, path: str | PathLike[str] | None = None) -> Path:
        """Write one self-contained HTML page about a stored sweep or evaluation, and return the file.

        Raises:
            NotFoundError: no such sweep. UsageError: its answers are neither right nor wrong. MissingExtraError: no altair.
        """
        from steercache.api.reporting import write_report

        return write_report(self._session, sweep, None if path is None else Path(path)).path

    # Analyses

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
        """Compare two runs on the tokens that both read; see `steercache.api.analyses.drift`."""
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
        """Projections of a picture's patches on a vector, a map per layer; see `steercache.api.analyses.patches`."""
        from steercache.api.analyses import patches

        return patches(self._session, str(run), sample, vector, layers=layers, view=view, allow_foreign=allow_foreign)

    # Care of the files

    def status(self) -> CacheStatus:
        """What is in the cache and how large it is, read from the files."""
        return cache_status(self._session.cache)

    def verify(self, *runs: str | Run, progress: ProgressLike = None) -> Verified:
        """Compare every file (of some runs, or of all) with its recorded size and checksums.

        Raises:
            NotFoundError: no such run.
        """
        with reporting(progress) as show:
            return verify(self._session.cache, [str(run) for run in runs], show)

    def compact(self, run: str | Run, *, codec: CodecName = "blosc", progress: ProgressLike = None) -> Compacted:
        """Write a run again with a codec (blosc and pcodec are lossless; int8 has one scale per row and is lossy).

        The old generation stays until `collect_garbage`. Raises NotFoundError, BusyError, BudgetError.
        """
        cache = self._session.cache
        with reporting(progress) as show:
            return compact_run(
                cache, cache.resolve_run(str(run)), codec=codec, on_shard=lambda n, of: show("compacting", n, of)
            )

    def rebuild(self, *, progress: ProgressLike = None) -> int:
        """Make the index again from the files beside it; returns the number of shards read."""
        done = 0
        with reporting(progress) as show:

            def count(n_shards: int) -> None:
                nonlocal done
                done += n_shards
                show("rebuilding the index", done, None)

            return rebuild_index(self._session.cache, on_shards=count)

    def run_to_remove(self, run: str | Run) -> tuple[str, str]:
        """Id and name of the run that `remove` would take; one without a readable document has its id. Raises NotFoundError."""
        run_id = self._session.cache.resolve_run_to_remove(str(run))
        return run_id, self._session.cache.name_of(run_id)

    def remove(self, run: str | Run, *, damaged_shards_only: bool = False) -> Removed:
        """Remove a run with its activations, or only its damaged shards, so that a build makes them again.

        Vectors fitted from the run stay. Raises NotFoundError, BusyError.
        """
        cache = self._session.cache
        run_id, name = self.run_to_remove(run)
        if damaged_shards_only:
            return Removed(run_id=run_id, name=name, shards=tuple(remove_damaged_shards(cache, run_id)))
        return Removed(run_id=run_id, name=name, n_bytes=remove_run(cache, run_id))

    def collect_garbage(self, *, dry_run: bool = False) -> list[Leftover]:
        """Remove what nothing refers to (old generations, half-written files), and return it; `dry_run` only returns it."""
        cache = self._session.cache
        return list(leftovers(cache)) if dry_run else collect(cache)


def open_cache_at(
    root: str | PathLike[str] | None = None,
    *,
    create: bool = False,
    queries: Sequence[str | PathLike[str]] = (),
    limits: Limits | None = None,
) -> Cache:
    """Open the cache at `root` (by default `STEERCACHE_ROOT`, or the folder `cache`).

    `create` makes an empty one where there is none; `queries` are folders of query files of your own; `limits` bound the time
    and memory of every query.

    Raises:
        NotFoundError: there is no cache and `create` is false. UsageError: the folder cannot be made.
    """
    folder = default_root() if root is None else Path(root)
    opened = open_cache(folder, create=create)
    library = load_library([Path(one) for one in queries])
    return Cache(Session(opened, library=library, limits=limits or Limits()))


def _run_name(run: str | Run | None) -> str | None:
    return None if run is None else str(run)


def _several(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, Sequence) else (values,)
