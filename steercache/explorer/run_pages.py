"""The first page, and a run: its facts, the norms of its rows, its labels and its samples."""

from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from steercache.api.cache import Cache
from steercache.api.projections import RowNorms
from steercache.core.errors import NotFoundError, SteercacheError
from steercache.explorer.asking import whole, words
from steercache.explorer.charts import Line, by_layer, table_of
from steercache.explorer.directions import Directions
from steercache.explorer.memory import Remembered
from steercache.explorer.rendering import message_of, page

PER_PAGE: Final = 50
FILTERS: Final = ("concept", "task", "dataset", "split")
_SHOWN_RUNS: Final = 200


class RunPages:
    """Pages about runs."""

    def __init__(self, cache: Cache, directions: Directions) -> None:
        self._cache, self._directions = cache, directions
        self._norms: Remembered[RowNorms] = Remembered(32, 600.0)

    def overview(self, request: Request) -> Response:
        """Every run of the cache."""
        try:
            runs = self._cache.runs().to_arrow_table().to_pylist()
        except NotFoundError:  # a cache that nothing was built into
            runs = []
        damaged = [message_of(error, self._cache.root) for error in self._cache.folder.damaged_documents()]
        return page(request, "overview.html", runs=runs[:_SHOWN_RUNS], n_runs=len(runs), damaged=damaged)

    def run(self, request: Request) -> Response:
        """One run, and some of its samples."""
        run_id = request.path_params["run_id"]
        row = self._row(run_id)
        labels = self._cache.labels(run_id)
        chosen = {name: words(request, name) for name in (*FILTERS, "search")}
        offset = whole(request, "offset", 0)
        samples = self._cache.samples(run_id, **chosen, offset=offset, limit=PER_PAGE)
        drawn: tuple[Any, list[str], list[list[str]]] = (None, [], [])
        trouble = None
        try:
            drawn = self._picture(run_id)
        except SteercacheError as error:  # damaged or missing arrays: the samples are there nevertheless
            trouble = message_of(error, self._cache.root)
        return page(
            request,
            "run.html",
            run=row,
            labels={name: _counted(values) for name, values in labels.items()},
            filters=[(name, _counted(labels[name])) for name in FILTERS if len(labels[name]) > 1 or chosen[name]],
            chosen=chosen,
            samples=samples,
            before=_link(chosen, offset - PER_PAGE) if offset > 0 else None,
            after=_link(chosen, offset + PER_PAGE) if offset + PER_PAGE < samples.n else None,
            chart=drawn[0],
            columns=drawn[1],
            numbers=drawn[2],
            trouble=trouble,
        )

    def _row(self, run_id: str) -> dict[str, Any]:
        document = self._cache.folder.run_document(run_id)  # NotFoundError
        rows = [one for one in self._cache.runs().to_arrow_table().to_pylist() if one["run_id"] == run_id]
        if not rows:
            raise NotFoundError("the index does not have this run yet")
        found: dict[str, Any] = rows[0] | {"hidden_size": document.model.hidden_size}
        return found

    def _picture(self, run_id: str) -> tuple[Any, list[str], list[list[str]]]:
        """Norms by layer, as a chart and as a table."""
        generation = self._cache.folder.source(run_id).generation
        found = self._norms.get((run_id, generation), lambda: self._cache.row_norms(run_id))
        if not found.n:
            return None, [], []
        lines = [
            Line(
                name=f"{kind} tokens ({found.n[kind]:,} rows)",
                values=q_l3[:, 1].tolist(),
                low=q_l3[:, 0].tolist(),
                high=q_l3[:, 2].tolist(),
            )
            for kind, q_l3 in found.quantiles.items()
        ]
        said = ", ".join(f"{kind} from {q_l3[0, 1]:.3g} to {q_l3[-1, 1]:.3g}" for kind, q_l3 in found.quantiles.items())
        chart = by_layer(
            found.layers,
            lines,
            words=f"Median norm of the rows by layer: {said}",
            unit=f"norm of {found.site}: median, and the band from the 10 % to the 90 % quantile; position 0 left out",
        )
        names = {
            f"{kind}, {q}": q_l3[:, i].tolist()
            for kind, q_l3 in found.quantiles.items()
            for i, q in enumerate(("10 %", "median", "90 %"))
        }
        return chart, *table_of(found.layers, names)


def _counted(values: dict[str | None, int]) -> list[tuple[str, int]]:
    return [(name, n) for name, n in values.items() if name is not None][:200]


def _link(chosen: dict[str, str | None], offset: int) -> str:
    given = {name: value for name, value in chosen.items() if value}
    return urlencode(given | {"offset": max(offset, 0)}, errors="replace")
