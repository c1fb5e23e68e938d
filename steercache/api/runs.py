"""`Run`: one traced model and data set, as `Cache.build` and `Cache.run` return it."""

from dataclasses import dataclass

from steercache.cache.documents import RunDocument
from steercache.core.drawing.bars import layer_strip
from steercache.core.ids import SHORT_ID
from steercache.core.layout import DType, NonFinite
from steercache.core.notebook import notebook_html, notebook_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One model traced over one or several data sets; pass it wherever a run's name is accepted.

    `sites` maps each site (`resid_post`, ...) to the layers kept there, ascending; `n_rows` counts the rows of every layer,
    `hidden_size` is the width d of a row at `resid_post`. `n_shards_built` is 0 when everything was cached already, None
    for a run that was looked up and not built; `n_bytes` is the size on disk of the generation in use,
    `seconds` what the build took. `computed_otherwise` says in which numerics rows that were cached differ from this build's,
    `non_finite` which layers have rows that are not finite, `notes` what the build remarked.
    """

    run_id: str
    name: str
    model: str
    dtype: DType
    modality: str
    sites: dict[str, tuple[int, ...]]
    hidden_size: int
    n_samples: int
    n_rows: int
    n_bytes: int | None = None
    n_shards_built: int | None = None
    n_shards_kept: int | None = None
    seconds: float | None = None
    index_held_by: str | None = None
    computed_otherwise: tuple[str, ...] = ()
    non_finite: tuple[NonFinite, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.run_id

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} x {len(layers)}" for site, layers in self.sites.items())
        return (
            f"<Run {self.name!r} {self.run_id[:SHORT_ID]}: {self.model}, {self.n_rows:,} rows, {sites}, {self.dtype}>"
        )

    def _repr_html_(self) -> str:
        """Its size, and which layers are kept, for a notebook."""
        facts: list[tuple[str, object]] = [
            ("model", self.model),
            ("modality", self.modality),
            ("dtype", self.dtype),
            ("samples", f"{self.n_samples:,}"),
            ("rows per layer", f"{self.n_rows:,}"),
            ("width", self.hidden_size),
            ("MiB", None if self.n_bytes is None else f"{self.n_bytes / 2**20:,.0f}"),
            ("id", self.run_id[:SHORT_ID]),
        ]
        notes = [(one,) for one in self.notes]
        tables = [notebook_table(("note",), notes)] if notes else []
        picture = layer_strip(self.sites, title="Layers kept")
        return notebook_html(f"Run {self.name}", facts, pictures=[picture], tables=tables)


def run_of(document: RunDocument, **measured: object) -> Run:
    """The run that a document describes; `measured` are the fields that only a build knows."""
    layout = document.layout
    return Run(
        run_id=document.run_id,
        name=document.name,
        model=document.model.name,
        dtype=layout.dtype,
        modality="text" if document.model.modality == "text" else "multimodal",
        sites={site.site: tuple(site.layers) for site in layout.sites},
        hidden_size=document.model.hidden_size,
        n_samples=document.n_samples,
        n_rows=document.n_rows,
        **measured,  # type: ignore[arg-type]
    )
