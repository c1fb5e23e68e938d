"""Planning, building and looking up runs."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steercache.api.cache_core import CacheCore
from steercache.api.paths import refuse_address
from steercache.api.progress import ProgressLike
from steercache.api.runs import Run, run_of
from steercache.core.layout import DType
from steercache.engines.crew import EngineName, EngineOptions

if TYPE_CHECKING:
    from steercache.api.importing import Format
    from steercache.api.tracing import TraceLike
    from steercache.core.selection import Selection
    from steercache.exchange.activations.export import Exported, FileFormat
    from steercache.runs.overview import Overview


class RunMethods(CacheCore):
    """Planning, building and looking up runs."""

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
        budget_gb: float | None = None,
        progress: ProgressLike = None,
    ) -> "Overview":
        """What `build` would write, what is cached already, and about how long it takes; nothing is computed.

        Sizes (`n_bytes`, `n_bytes_to_write`) are in bytes, `seconds` is None where nothing is known of the model's speed here.
        With `budget_gb`, `proposals` are choices of layers, rows and codec with their sizes and what each still allows: which
        vectors can be fitted, whether runs can be replayed, whether SAEs can encode rows. Those that fit come first, among them
        those that keep the most.

        Raises:
            ManifestError, NotFoundError, UsageError: as `build`.
        """
        from steercache.api.tracing import plan_trace

        return plan_trace(
            self._session.cache,
            self.root,
            trace,
            model=model,
            device=device,
            dtype=dtype,
            budget_gb=budget_gb,
            progress=progress,
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
        engine: EngineName = "local",
        address: str | None = None,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        mixed_numerics: bool = False,
        budget_gb: float | None = None,
        force: bool = False,
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Run:
        """Trace a model into the cache, and return the run. What is cached already is not traced again.

        `trace` is a shipped trace's name, a manifest's file, a `TraceManifest`, or a data file (.csv, .jsonl, .parquet, .txt)
        together with the name of a `model`. Safe to interrupt at any moment: calling it again continues, and loses at most the
        shard that was being written. `workers` processes trace shards side by side: of this machine, or with `engine="ray"`
        of a Ray cluster, at `address` ("auto": the one this machine belongs to; None: that of `RAY_ADDRESS`, or one on this
        machine for the length of the build), each with so many CPUs and GPUs set aside. The cache lies on a file system that
        all nodes share. Workers that die are replaced. A worker whose numerics differ from the run's is left out with a note;
        with `mixed_numerics` it takes part, and its shards' records say what differs. `budget_gb` overrides the manifest's
        limit on what may be written; `force` resumes under other numerics than the run began with, and records that.
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
            engine=EngineOptions(
                name=engine,
                workers=workers,
                address=address,
                cpus_per_worker=cpus_per_worker,
                gpus_per_worker=gpus_per_worker,
            ),
            mixed_numerics=mixed_numerics,
            budget_gb=budget_gb,
            force=force,
            progress=progress,
            on_note=on_note,
        )

    def import_activations(
        self,
        source: str | PathLike[str],
        *,
        source_format: "Format",
        trace: "TraceLike | None" = None,
        model: str | None = None,
        n_layers: int | None = None,
        requests: str | PathLike[str] | None = None,
        entries: Sequence[int] | None = None,
        numbering: Literal["states", "blocks"] | None = None,
        last: Literal["block", "norm"] | None = None,
        layers: Sequence[int] | None = None,
        rows: str | None = None,
        dtype: DType | None = None,
        name: str | None = None,
        leave_out: Sequence[str] = (),
        duplicates: Literal["refuse", "first", "keep"] = "refuse",
        allow_non_finite: bool = False,
        embedding: bool = False,
        verify: int = 0,
        device: str = "auto",
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Run:
        """Take in activations that another engine captured, as a run; what was taken in already is not written again.

        `source` is a folder (or file) in `source_format`: "vllm" (`extract_hidden_states`), "speculators", "vllm-lens"
        (responses as JSON), "sae-lens" (cached activations), "torch" (a `.pt` file or folder), "npy", "safetensors". No file
        runs code.

        With `trace`, the requests are those of its data sets: they are found by their token ids, and the run has the labels,
        rows and layers of the manifest. Otherwise `model` names the model, and the samples are a data set of their own; a model
        that is not on this machine is given by its name and `n_layers`. `requests` is a file of JSON lines with `id`,
        `token_ids` and `text`: it gives the order, and what has to be there.

        `entries` numbers the captured layers in the files' order, counted as `numbering` says: "states" (0 is the embedding, k
        the output of block k - 1) or "blocks" (k is the output of block k). `last` says whether the entry of the last block is
        the block's output, or "norm" (behind the final norm, as the last of transformers' hidden states). Where the format does
        not say these things they must be given, or `verify` finds them: it traces so many samples with the model, and an entry
        that is another layer than declared is refused. `run.notes` has the largest difference of every entry.

        `layers` keeps some blocks, `rows` a row policy without arguments ("all", "last", "text", "image", "pooled"), `dtype`
        converts, `embedding` keeps the embedding (as `resid_pre` of block 0). `leave_out` names samples that are not wanted;
        `duplicates` says what happens to requests with the same tokens.

        Raises:
            ManifestError: samples that cannot be taken in, all of them named: rows and token ids differ in number, missing or
                duplicate requests, values that are not finite, mixed dtypes or widths, files that are cut.
            UsageError: something about the entries is not said, or is wrong. NotFoundError: no files, model or manifest.
            BudgetError: no space. BusyError: another process writes this run.
        """
        from steercache.api.importing import ImportOptions, import_activations

        options = ImportOptions(
            format=source_format,
            trace=trace,
            model=model,
            n_layers=n_layers,
            requests=None if requests is None else Path(requests),
            entries=entries,
            numbering=numbering,
            last=last,
            layers=layers,
            rows=rows,
            dtype=dtype,
            name=name,
            leave_out=leave_out,
            duplicates=duplicates,
            allow_non_finite=allow_non_finite,
            embedding=embedding,
            verify=verify,
            device=device,
        )
        return import_activations(self._session.cache, Path(source), options, progress=progress, on_note=on_note)

    def export(
        self,
        selection: "Selection",
        path: str | PathLike[str],
        *,
        layers: Sequence[int] | None = None,
        file_format: "FileFormat | None" = None,
    ) -> "Exported":
        """Write the rows of a selection with their tokens for other tools; memory holds one batch of rows.

        `file_format` is "parquet", "arrow" (Feather), "datasets" (a folder for `datasets.load_from_disk`), "safetensors"
        (values in the dtype they are stored in) or "npy" (a folder with one array per layer); by default what the suffix of
        `path` says. Other formats than safetensors hold float32, which is exact for every stored value. `layers` are all of the
        selection's site unless given. A file takes its name when it is complete.

        Raises:
            UsageError: no rows, a layer that the run did not keep, an unknown suffix, or a folder that is there already.
            BudgetError: the disk is full.
        """
        from steercache.api.exporting import export_rows

        refuse_address(
            path, "a file of rows", hint="write it into a folder here, and send it with the store's own tools"
        )
        return export_rows(self._session, selection, Path(path), layers=layers, file_format=file_format)

    def copy_part(
        self,
        run: str | Run,
        root: str | PathLike[str],
        *,
        layers: Sequence[int] | None = None,
        selection: "Selection | None" = None,
        progress: ProgressLike = None,
    ) -> Run:
        """Copy some layers, or the rows of a selection, of a run into the cache at `root`, which is made where there is none.

        The part is a run of its own, with another id; `runs.parent_run_id` and its manifest (`part_of`) name the run that it is
        a part of. Samples keep their ids, and all tokens are there: those whose rows were left out have no `row_idx`.
        An interrupted copy goes on with the same call.

        Raises:
            UsageError: nothing is left out, a layer is not there, the run is lossy or not complete, or `root` is this cache
                or an address.
        """
        from steercache.api.exporting import copy_part

        refuse_address(root, "a part of a run", hint="copy it into a folder, and push it from there")
        run_id = self._session.cache.resolve_run(run if isinstance(run, str) else run.run_id)
        return copy_part(self._session, run_id, Path(root), layers=layers, selection=selection, progress=progress)
