"""Where an SAE's hook is in our terms: site and block."""

import re
from typing import Final

_BLOCK: Final = re.compile(r"^blocks\.(\d+)\.(.+)$")  # TransformerLens
_MODULE: Final = re.compile(r"^(?:.*\.)?layers\.(\d+)(?:\.(output|input))?$")  # a decoder block's path in transformers
_SITES: Final = {"hook_resid_post": "resid_post", "hook_resid_pre": "resid_pre"}


def site_of(hook_name: str | None) -> tuple[str, int | None]:
    """Site and zero-based block of a hook: TransformerLens' name, or a block's path in transformers.

    The input of block l + 1 is `resid_post` of block l. A hook that is no place in the residual stream comes back as it is,
    with no layer.

    >>> site_of("blocks.12.hook_resid_post")
    ('resid_post', 12)
    >>> site_of("blocks.12.hook_resid_pre")
    ('resid_post', 11)
    >>> site_of("model.layers.12.output")
    ('resid_post', 12)
    >>> site_of("blocks.3.attn.hook_z")
    ('blocks.3.attn.hook_z', None)
    """
    if not hook_name:
        return "unknown", None
    if (block := _BLOCK.match(hook_name)) is not None and block[2] in _SITES:
        site, layer = _SITES[block[2]], int(block[1])
    elif (module := _MODULE.match(hook_name)) is not None:
        site, layer = ("resid_pre" if module[2] == "input" else "resid_post"), int(module[1])
    else:
        return hook_name, None
    if site == "resid_pre" and layer > 0:
        return "resid_post", layer - 1
    return site, layer
