"""The dataset card of a pushed place: what is in it, and how to read it."""

from collections.abc import Sequence
from typing import Final

from steercache.core.ids import SHORT_ID
from steercache.objects.listing import Item, Listing, about_text

_HEAD: Final = """---
tags:
- activations
- steering-vectors
- interpretability
- steercache
viewer: false
---

# {title}

Activations and what was made of them, written by [steercache](https://pypi.org/project/steercache/). The folders are those of a
cache: every array is a Zarr v3 array, every table a Parquet file. `steercache.json` has the size and SHA-256 of every file;

    steercache pull {source}

checks them and puts the files into a cache, where they can be queried.
"""
_NOUNS: Final = {"run": "Runs", "vector": "Vectors", "sweep": "Sweeps", "features": "Features of SAEs", "sae": "SAEs"}


def card_of(listing: Listing, *, source: str) -> str:
    """The card as Markdown with the front matter of the hub; `source` is what `pull` is given."""
    title = source.rstrip("/").rpartition("/")[2].partition("@")[0] or "steercache"
    parts = [_HEAD.format(title=about_text(title), source=about_text(source))]
    for kind, noun in _NOUNS.items():
        items = [item for item in listing.items if item.kind == kind]
        if items:
            parts.append(f"## {noun}\n\n{_table(items)}\n")
    return "\n".join(parts)


def _table(items: Sequence[Item]) -> str:
    columns = list(dict.fromkeys(key for item in items for key in item.about))
    lines = ["| name | id | size |" + "".join(f" {about_text(c)} |" for c in columns)]
    lines.append("|---|---|---|" + "---|" * len(columns))
    for item in items:
        cells = "".join(f" {about_text(item.about.get(c, ''))} |" for c in columns)
        short = about_text(item.id)[:SHORT_ID]
        lines.append(f"| {about_text(item.name)} | {short} | {item.n_bytes / 1e6:,.1f} MB |{cells}")
    return "\n".join(lines)
