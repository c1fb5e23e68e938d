"""What a plan comes to in this cache: what is there already, what remains, and about how long it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from steercache.cache.calibration import block_seconds, correction, tokens_per_second
from steercache.cache.documents import PlannedShard, RunDocument
from steercache.cache.handle import CacheFolder
from steercache.cache.source import ShardRecords, current_generation, newest_generation
from steercache.cache.status import free_bytes
from steercache.core.layout import ITEM_BYTES
from steercache.core.numerics import numeric_differences
from steercache.runs.budget import Proposal
from steercache.runs.dates import notes_on_dates
from steercache.runs.first_guess import guess_key, guessed_s
from steercache.runs.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Another run with the same model and some of the same inputs."""

    run_id: str
    name: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A plan seen from a cache; sizes in bytes. `seconds` comes from builds of this model that were timed here; or
    (`forward_only`) from its forward passes alone, as evaluations and grids measure them; or (`guessed`) from the speed of
    matrix products on this CPU and what earlier builds of any model took beside it; None where neither can be had.

    `n_bytes_of_largest` is what the largest sample comes to by itself, `n_bytes_of_layer` one layer of it. `notes` say
    which runs are not reused, and why, and under which other numerics the cached shards were computed. `proposals` are what
    could be kept instead, where a budget was given (see `Proposal`). Flat, as the JSON of `plan`.
    """

    run_id: str
    name: str
    n_samples: int
    n_tokens: int
    n_rows: int
    n_shards: int
    n_shards_cached: int
    n_bytes: int
    n_bytes_of_largest: int
    n_bytes_of_layer: int
    n_bytes_to_write: int
    budget_bytes: int
    n_bytes_free: int
    seconds: float | None
    forward_only: bool
    guessed: bool
    overlapping: tuple[Overlap, ...]
    notes: tuple[str, ...]
    proposals: tuple[Proposal, ...] = ()


def overview(cache: CacheFolder | None, root: Path, plan: Plan) -> Overview:
    """Compare a plan with what a cache has; `cache` None is a root that does not exist yet."""
    document = plan.document
    pending = pending_shards(cache, document)
    time = build_time(cache, document, pending)
    return Overview(
        run_id=document.run_id,
        name=document.name,
        n_samples=document.n_samples,
        n_tokens=plan.n_tokens,
        n_rows=document.n_rows,
        n_shards=len(document.shards),
        n_shards_cached=len(document.shards) - len(pending),
        n_bytes=plan.n_bytes,
        n_bytes_of_largest=plan.most_rows * plan.row_bytes,
        n_bytes_of_layer=_bytes_of_layer(plan),
        n_bytes_to_write=plan.bytes_of(pending),
        budget_bytes=bytes_of_gb(document.manifest["budget_gb"]),
        n_bytes_free=free_bytes(root),
        seconds=time.seconds,
        forward_only=time.basis == "forward passes",
        guessed=time.basis == "a guess",
        overlapping=_overlapping(cache, document),
        notes=(*_notes_on_numerics(cache, document), *notes_on_dates(cache, document)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildTime:
    """How long tracing some shards should take, and what that is known from; `guess_s` is the uncorrected guess (None: none was
    made), which a finished build corrects."""

    seconds: float | None
    basis: Literal["builds", "forward passes", "a guess", "nothing"]
    guess_s: float | None = None


def build_time(cache: CacheFolder | None, document: RunDocument, pending: Sequence[PlannedShard]) -> BuildTime:
    """The best estimate that there is; nothing is known of vision towers, whose rows other builds do not time."""
    if "vision_out" in {site.site for site in document.layout.sites}:
        return BuildTime(seconds=None, basis="nothing")
    n_tokens, model = sum(s.n_tokens for s in pending), document.model
    speed = tokens_per_second(cache.paths, model.fingerprint, model.dtype) if cache else None
    if speed is not None:
        return BuildTime(seconds=n_tokens / speed, basis="builds")
    forward = _forward_speed(cache, document) if cache is not None else None
    if forward is not None:
        return BuildTime(seconds=n_tokens / forward, basis="forward passes")
    guess_s = guessed_s(model, document.numerics, n_tokens=n_tokens)
    if guess_s is None:
        return BuildTime(seconds=None, basis="nothing")
    factor = correction(cache.paths, guess_key(model)) if cache else 1.0
    return BuildTime(seconds=factor * guess_s, basis="a guess", guess_s=guess_s)


def _notes_on_numerics(cache: CacheFolder | None, document: RunDocument) -> tuple[str, ...]:
    if cache is None or not cache.run_paths(document.run_id).document.exists():
        return ()
    differences = numeric_differences(cache.run_document(document.run_id).numerics, document.numerics)
    what = f"the run was begun under other numerics than a build would use now: {'; '.join(differences)}"
    return (what,) if differences else ()


def _forward_speed(cache: CacheFolder, document: RunDocument) -> float | None:
    """Tokens per second through the blocks of this model, where they were timed on such a device with so many threads."""
    model, numerics = document.model, document.numerics
    device, threads = str(numerics.get("device")), int(numerics.get("threads") or 0)
    each = block_seconds(cache.paths, model.fingerprint, model.dtype, device=device, threads=threads)
    return 1 / (each * model.n_layers) if each else None


def pending_shards(cache: CacheFolder | None, document: RunDocument) -> list[PlannedShard]:
    """Shards of a plan that the cache does not have yet."""
    cached: frozenset[int] = frozenset()
    if cache is not None:
        paths = cache.run_paths(document.run_id)
        lost = not paths.current.exists()  # then a build puts the newest in force
        generation = newest_generation(paths, n_shards=len(document.shards)) if lost else current_generation(paths)
        cached = frozenset(ShardRecords(paths, generation)) if generation else cached
    return [s for s in document.shards if s.shard_idx not in cached]


def sizes_of(plan: Plan) -> str:
    """How a run comes to its size, in one line."""
    document, layout = plan.document, plan.document.layout
    item_bytes = ITEM_BYTES[layout.dtype]
    arrays = " + ".join(f"{s.site} {len(s.layers)} x {s.width}" for s in layout.sites)
    largest, layer = (decimal_bytes(n) for n in (plan.most_rows * plan.row_bytes, _bytes_of_layer(plan)))
    return (
        f"{document.n_samples:,} samples of up to {largest} "
        f"({plan.most_rows:,} rows, {arrays}, {item_bytes} bytes a value; one layer of it {layer})"
    )


def decimal_bytes(n_bytes: float) -> str:
    """A size in the units of `budget_gb`.

    >>> decimal_bytes(130e6), decimal_bytes(20e9)
    ('130 MB', '20 GB')
    """
    size, unit = n_bytes, "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


def bytes_of_gb(size_gb: float) -> int:
    """Bytes of a size as a person writes it: 0.29 is 290,000,000, though 0.29 * 1e9 is a little less."""
    return round(size_gb * 1e9)


def enough_gb(n_bytes: int) -> str:
    """The smallest size of three digits, in GB, that holds so many bytes; written out, since YAML takes 5e-07 for text.

    >>> enough_gb(1_234_000_000), enough_gb(20_000_000_000), enough_gb(500)
    ('1.24', '20', '0.0000005')
    """
    step = 10 ** max(0, len(str(n_bytes)) - 3)
    rounded_up = -(-n_bytes // step) * step
    return format((Decimal(rounded_up) / 10**9).normalize(), "f")


def _bytes_of_layer(plan: Plan) -> int:
    """One layer of the widest site of the largest sample."""
    layout = plan.document.layout
    return plan.most_rows * max(s.width for s in layout.sites) * ITEM_BYTES[layout.dtype]


def _overlapping(cache: CacheFolder | None, document: RunDocument) -> tuple[Overlap, ...]:
    if cache is None:
        return ()
    wanted = {d.inputs_digest for d in document.datasets}
    found = []
    for other in cache.documents():
        shared = [d.dataset for d in other.datasets if d.inputs_digest in wanted]
        same_model = other.model.fingerprint == document.model.fingerprint
        if other.run_id != document.run_id and same_model and shared:
            sites = ", ".join(f"{s.site} x {len(s.layers)}" for s in other.layout.sites)
            found.append(
                Overlap(
                    run_id=other.run_id, name=other.name, what=f"{', '.join(shared)}: {sites}, {other.layout.dtype}"
                )
            )
    return tuple(found)
