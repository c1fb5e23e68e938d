"""What a judge, a model or a person, sees of a feature: what it is said to respond to, and texts that make it fire."""

from dataclasses import dataclass
from typing import Any, Literal

EvidenceSource = Literal["neuronpedia", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One token on which a feature fires, with the text around it and the activation."""

    before: str
    token: str
    after: str
    value: float

    def marked(self) -> str:
        """The text in one line with the token in double angle brackets.

        >>> Context(before="The cat is", token=" on", after=" the mat.", value=2.0).marked()
        'The cat is << on>> the mat.'
        """
        return " ".join(f"{self.before}<<{self.token}>>{self.after}".splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything shown about one feature of one layer. `explanation` is None where nobody has written one."""

    layer: int
    feature: int
    explanation: str | None
    contexts: tuple[Context, ...]
    source: EvidenceSource

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "layer": self.layer,
            "feature": self.feature,
            "explanation": self.explanation,
            "contexts": [[round(c.value, 4), c.marked()] for c in self.contexts],
            "source": self.source,
        }
