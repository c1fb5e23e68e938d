"""Features of encoded runs in a query: the relations on its connection, and which encoding a query is about."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from steercache.cache.feature_files import Encoding, all_encodings
from steercache.cache.handle import CacheFolder
from steercache.core.errors import NotFoundError, QueryError, SteercacheWarning
from steercache.core.ids import SHORT_ID, resolve_name
from steercache.index.features import register_features


class CachedFeatures:
    """The encodings of a cache, for the length of one query: read at first use."""

    def __init__(self, cache: CacheFolder) -> None:
        self._cache = cache

    @cached_property
    def encodings(self) -> Sequence[Encoding]:
        """Every encoding whose run is there, by ids of SAE and run; those that cannot be read are named in a warning."""
        found, damaged = all_encodings(self._cache.paths)
        for error in damaged:
            warnings.warn(
                f"features that cannot be read: {error.place}: {error.message}", SteercacheWarning, stacklevel=2
            )
        return found

    def register(self, con: Any) -> None:
        """Give a connection `feature_acts` and `sae_encodings`; an encoding that lacks rows is named in a warning."""
        files: list[Any] = []
        for one in self.encodings:
            keys = {
                "sae_id": one.document.sae.sae_id,
                "run_id": one.document.run_id,
                "site": one.document.site,
                "layer": one.document.layer,
            }
            files += [(one.paths.folder / record.file.path, keys) for record in one.fresh.values()]
            if not one.complete:
                warnings.warn(
                    f"feature_acts has {one.n_rows:,} of {one.n_rows_of_run:,} rows of the run"
                    f" {self._cache.name_of(one.document.run_id)!r} for the SAE {one.document.sae.name!r}: encode it again",
                    SteercacheWarning,
                    stacklevel=2,
                )
        register_features(con, files, [_row(one) for one in self.encodings])

    def choose(self, sae: str | None, run_id: str | None) -> tuple[str, str]:
        """Ids of the SAE and the run of the one encoding that matches; None matches any.

        Raises:
            NotFoundError: there is none. QueryError: there are several.
        """
        fits = [one for one in self.encodings if run_id in (None, one.document.run_id)]
        if sae is not None:
            known = [(one.document.sae.sae_id, one.document.sae.name) for one in fits]
            sae_id = resolve_name(sae, known, noun="encoding with an SAE", list_command="steercache sae list")
            fits = [one for one in fits if one.document.sae.sae_id == sae_id]
        if not fits:
            of = "no run" if run_id is None else f"the run {self._cache.name_of(run_id)!r}"
            raise NotFoundError(
                f"{of} is encoded with an SAE yet" if run_id is None else f"{of} is not encoded with an SAE",
                hint="encode it: steercache sae encode SAE",
            )
        if len(fits) > 1:
            shown = "\n".join(
                f"  {one.document.sae.name} ({one.document.sae.sae_id[:SHORT_ID]}), run"
                f" {self._cache.name_of(one.document.run_id)} ({one.document.run_id[:SHORT_ID]})"
                for one in fits[:8]
            )
            raise QueryError(
                f"several encodings fit; name one:\n{shown}",
                hint="-p sae=NAME -p run=NAME at the terminal, sae='NAME', run='NAME' in Python",
            )
        return fits[0].document.sae.sae_id, fits[0].document.run_id


def _row(one: Encoding) -> dict[str, Any]:
    return {
        "sae_id": one.document.sae.sae_id,
        "sae": one.document.sae.name,
        "run_id": one.document.run_id,
        "site": one.document.site,
        "layer": one.document.layer,
        "n_features": one.document.sae.d_sae,
        "n_rows": one.n_rows,
        "n_rows_of_run": one.n_rows_of_run,
        "n_entries": one.n_entries,
        "n_bytes": one.n_bytes,
        "complete": one.complete,
        "lossy": one.lossy,
    }
