"""JSON schema of each kind of manifest, for editors: the same rules as loading, but for those between two fields."""

import json
from typing import Any

from steercache.core.errors import UsageError
from steercache.manifests.documents import KINDS
from steercache.manifests.problems import close_match

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of one kind of manifest.

    Raises:
        UsageError: there is no such kind.
    """
    if kind not in KINDS:
        raise UsageError(
            f"no kind of manifest is called {kind!r}; there are: {', '.join(KINDS)}{close_match(kind, KINDS)}"
        )
    schema = KINDS[kind].model_json_schema()
    return {
        "$schema": DIALECT,
        "title": f"steercache {kind} manifest",
        **{k: v for k, v in schema.items() if k != "title"},
    }


def schema_text(kind: str) -> str:
    """The schema, as in `manifests/schema/<kind>.json`."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"
