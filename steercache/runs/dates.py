"""Runs that differ from a plan only by the date that a chat template wrote."""

from typing import Any

from steercache.cache.documents import RunDocument
from steercache.cache.handle import CacheFolder
from steercache.core.ids import SHORT_ID


def template_date(document: RunDocument) -> str | None:
    """The date that the chat template wrote into the prompts of a run; None where it wrote none, or it was not recorded."""
    date: str | None = document.identity.get("template", {}).get("date")
    return date


def notes_on_dates(cache: CacheFolder | None, document: RunDocument) -> tuple[str, ...]:
    """One sentence per run of the cache that this plan would reuse, had it the same template date."""
    date = template_date(document)
    if cache is None or date is None:
        return ()
    return tuple(
        f"the chat template writes the date: {other.name} ({other.run_id[:SHORT_ID]}) was traced with {template_date(other)}, "
        f"this plan has {date}, so nothing of it is reused; "
        f"to reuse it, set `template_date: {template_date(other)}` in the model manifest"
        for other in cache.documents()
        if template_date(other) not in (None, date) and _but_for_the_date(other) == _but_for_the_date(document)
    )


def _but_for_the_date(document: RunDocument) -> dict[str, Any]:
    """The identity without what follows from the date: the token ids, their places, and how many rows a shard has."""
    identity = document.identity
    follows = ("labels", "rows_per_shard")
    return {
        "model": identity["model"],
        "datasets": [(part.dataset, part.n_samples) for part in document.datasets],
        "kept": {name: value for name, value in identity["kept"].items() if name not in follows},
    }
