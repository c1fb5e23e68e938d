"""What a cell breaks, as a value: how far it moves the next token of unrelated prompts (`answers.damage` measures it)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Mean and largest KL over `n` prompts, in nats; 0 where nothing moved. `n_failed` others overflowed and are not in it; NaN
    where all did."""

    mean_nats: float
    max_nats: float
    n: int
    n_failed: int = 0

    def __str__(self) -> str:
        if not self.n:
            return f"failed on all {self.n_failed}"
        failed = f", failed on {self.n_failed}" if self.n_failed else ""
        return f"{self.mean_nats:.3g}, most {self.max_nats:.3g}{failed}"
