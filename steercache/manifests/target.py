"""What a manifest may say of the tokens that are steered: a name, or SQL."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from steercache.manifests.fields import Document

NamedTarget = Literal["image", "text", "both", "all", "last"]


class TokenQuery(Document):
    """A target as SQL: a condition over the prompt's tokens, and if wanted a weight that scales the strength."""

    where: Annotated[str, Field(min_length=1, max_length=8000)]
    """True for the tokens that are steered, such as `kind = 'image' and patch_row < 3`."""
    weight: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """A number per token, such as `1.0 / (1 + patch_row)`; left out, 1."""

    def __str__(self) -> str:
        return f"sql: {self.where}" + ("" if self.weight is None else f" (weight {self.weight})")


SqlTarget = Annotated[str, Field(pattern=r"^sql:", max_length=10_000)]


def _shape_of_target(value: Any) -> str:
    if isinstance(value, str):
        return "sql" if value.startswith("sql:") else "name"
    return "query"


SweepTarget = Annotated[
    Annotated[NamedTarget, Tag("name")] | Annotated[SqlTarget, Tag("sql")] | Annotated[TokenQuery, Tag("query")],
    Discriminator(_shape_of_target),
]
