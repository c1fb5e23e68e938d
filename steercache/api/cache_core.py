"""What every group of a cache's methods works on."""

from pathlib import Path

from steercache.api.notebook import cache_html
from steercache.cache.handle import CacheFolder
from steercache.queries.session import Session


class CacheCore:
    """What every group of a cache's methods works on."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def root(self) -> Path:
        """The cache's folder."""
        return self._session.cache.root

    @property
    def folder(self) -> CacheFolder:
        """The files and the index behind this object, for code of the package itself."""
        return self._session.cache

    @property
    def session(self) -> Session:
        """What asks the cache's queries, for code of the package itself."""
        return self._session

    def _repr_html_(self) -> str:
        """Its newest runs, vectors and sweeps, for a notebook."""
        return cache_html(self._session)

    def __repr__(self) -> str:
        return f"<Cache {str(self.root)!r}>"
