"""What an SAE is trained with: one frozen value, which is part of the trained SAE's provenance."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from steercache.core.errors import UsageError

Architecture = Literal["batchtopk", "topk", "jumprelu", "standard"]
DEAD_AFTER_ROWS = 200_000  # a feature that fired on none of so many rows in a row is helped back (TopK, BatchTopK)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How an SAE is trained: `width` features (a number, or "8x" for so many times the hidden size), of which `k` are active.

    `k` is exact for `topk`, the mean over a batch for `batchtopk`, the target of the quadratic penalty for `jumprelu`, and not
    used by `standard`, whose sparsity follows from `sparsity_coefficient` (its L1 coefficient; for `jumprelu` that of the
    penalty; None: sae-lens' default). `n_rows` rows are read in all, each row once before any is read again; None: each once.
    The learning rate `lr` rises over the first `warm_up` of the steps and falls to zero over the last `decay`. `normalize`
    scales all activations by one factor, so that their mean norm is the square root of their width; it is folded into the
    weights at the end. Rows longer than `max_norm_ratio` times the median norm are left out (None: none are). `held_out` is the
    share of the samples that is not trained on and measured at the end. `bfloat16` computes matrix products in that dtype;
    weights stay in float32. The same settings on the same rows give the same SAE, to the bit, on one machine and number of
    threads.

    Raises:
        UsageError: a value is out of its range; all problems are named.
    """

    width: int | str = "8x"
    architecture: Architecture = "batchtopk"
    k: float = 32
    n_rows: int | None = None
    batch_size: int = 1024
    lr: float = 3e-4
    warm_up: float = 0.05
    decay: float = 0.2
    sparsity_coefficient: float | None = None
    normalize: bool = True
    max_norm_ratio: float | None = 10.0
    held_out: float = 0.05
    bfloat16: bool = False
    seed: int = 0
    checkpoint_every_s: float = field(default=60.0, compare=False)  # changes nothing of the result

    def __post_init__(self) -> None:
        wrong = [text for text, right in _checks(self) if not right]
        if wrong:
            raise UsageError(f"training settings: {'; '.join(wrong)}")

    def n_features(self, hidden: int) -> int:
        """Features of an SAE over rows of `hidden` values.

        Raises:
            UsageError: fewer than `k`.

        >>> TrainingSettings(width="8x").n_features(576), TrainingSettings(width=100).n_features(576)
        (4608, 100)
        """
        times = _times(self.width)
        found = int(self.width) if times is None else round(times * hidden)
        if self.architecture != "standard" and not 1 <= self.k <= found:
            raise UsageError(f"training settings: k {self.k} does not lie between 1 and the {found:,} features")
        return max(found, 1)

    def n_steps(self, n_training_rows: int) -> int:
        """Steps of one batch each; the rest that fills no batch is not read.

        Raises:
            UsageError: there are fewer rows than one batch takes.
        """
        wanted = n_training_rows if self.n_rows is None else self.n_rows
        steps = wanted // self.batch_size
        if steps < 1 or n_training_rows < self.batch_size:
            raise UsageError(
                f"{min(wanted, n_training_rows):,} rows to train on do not fill a batch of {self.batch_size:,}",
                hint="more rows, or a smaller batch size",
            )
        return steps

    def record(self) -> dict[str, Any]:
        """Everything that moves the result, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint_every_s"}


def _times(width: int | str) -> float | None:
    """The factor of a width such as "8x"; None for a number of features."""
    text = str(width).strip().lower()
    return float(text[:-1]) if text.endswith("x") else None


def _is_width(width: int | str) -> bool:
    try:
        times = _times(width)
        return 0 < times < 1e6 if times is not None else int(width) >= 1
    except ValueError:
        return False


def _checks(settings: TrainingSettings) -> list[tuple[str, bool]]:
    s = settings
    return [
        (
            f"the architecture is one of {', '.join(get_args(Architecture))}, not {s.architecture!r}",
            s.architecture in get_args(Architecture),
        ),
        (f"width is a number of features or such as 8x, not {s.width!r}", _is_width(s.width)),
        (f"k is at least 1, not {s.k}", s.k >= 1 or s.architecture == "standard"),
        (f"k of topk is a whole number, not {s.k}", s.architecture != "topk" or float(s.k).is_integer()),
        (f"n_rows is at least 1, not {s.n_rows}", s.n_rows is None or s.n_rows >= 1),
        (f"batch_size is at least 1, not {s.batch_size}", s.batch_size >= 1),
        (f"lr is above 0, not {s.lr}", s.lr > 0),
        (
            f"warm_up and decay are shares of the steps that leave some between them, not {s.warm_up} and {s.decay}",
            s.warm_up >= 0 and s.decay >= 0 and s.warm_up + s.decay < 1,
        ),
        (f"max_norm_ratio is above 1, not {s.max_norm_ratio}", s.max_norm_ratio is None or s.max_norm_ratio > 1),
        (f"held_out lies between 0 and 0.9, and is {s.held_out}", 0 <= s.held_out <= 0.9),
        (f"the seed is at least 0, not {s.seed}", s.seed >= 0),
        (f"checkpoint_every_s is at least 0, not {s.checkpoint_every_s}", s.checkpoint_every_s >= 0),
    ]
