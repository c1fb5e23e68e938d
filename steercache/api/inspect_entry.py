"""What the entry point `inspect_ai` names: inspect_ai imports this module at its start and registers the provider `steercache`.

The provider itself is imported when a model `steercache/...` is asked for: it needs torch.
"""

from typing import Any

from inspect_ai.model import modelapi


@modelapi(name="steercache")  # type: ignore[untyped-decorator, unused-ignore]
def steercache() -> type[Any]:
    """Models of this package, steered: `steercache/MODEL?vector=NAME&layer=6&alpha=2`."""
    from steercache.api.inspect_provider import SteercacheAPI

    return SteercacheAPI
