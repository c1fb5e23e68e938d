"""A steering vector: one direction per layer, and where it came from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, cast, get_args

import numpy as np
import numpy.typing as npt

from steercache.core.drawing.charts import Axes, Series, line_chart
from steercache.core.ids import SHORT_ID, canonical_json, digest_bytes
from steercache.core.notebook import notebook_html
from steercache.core.vector_exports import ExportOptions, export
from steercache.core.vector_use import ChatConvention, VectorUse

if TYPE_CHECKING:
    from steercache.exchange.vectors.exporting import ExportedVector

LOCATED: Final = "located"
"""Key of a provenance under which paths and names stand: where something lay when the vector was made, not what it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedOn:
    """The model whose activations a vector was fitted on: name, fingerprint of its weights, "text" or "image".

    `bos` and `chat` are those of the texts that it read, as in `VectorUse`; None: not known.
    """

    name: str
    fingerprint: str
    modality: str
    bos: bool | None = None
    chat: ChatConvention | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(one, str) for one in (self.name, self.fingerprint, self.modality)):
            raise TypeError("a model's name, fingerprint and modality are texts")
        if not (self.bos is None or isinstance(self.bos, bool)) or self.chat not in (None, *get_args(ChatConvention)):
            raise ValueError(f"no convention of prompts: bos {self.bos!r:.40}, chat {self.chat!r:.40}")

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` made; unknown keys are left. Raises TypeError, ValueError."""
        return cls(**{one.name: said[one.name] for one in fields(cls) if one.name in said})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteeringVector:
    """Directions in the residual stream (or of the outputs of attention heads, `site` "head_out"), one per layer, in float32.

    `values` has shape (l, d), row i belonging to block `layers[i]`; added at the output of that block (site `resid_post`),
    or of its heads, as h + alpha * v. `provenance` holds JSON values only and no clock time: fitting again gives the same id.
    What it says under "located" (paths, names) is no part of the id: what was moved or renamed gives the same vector.
    `diagnostics` (per layer: auc, norm, resid_norm, ...) are measurements about the vector, not part of its id; nor is
    `fitted_on`, None where it is not known, nor `use`, how it is meant to be used, None where nobody has said. Vectors are
    equal when their ids are.
    """

    name: str
    method: str
    concept: str | None
    site: str
    layers: tuple[int, ...]
    values: npt.NDArray[np.float32]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: tuple[Mapping[str, Any], ...] = ()
    fitted_on: FittedOn | None = None
    use: VectorUse | None = None

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.ndim != 2 or len(self.values) != len(self.layers):
            raise ValueError(f"values of shape {self.values.shape}, {self.values.dtype} for {len(self.layers)} layers")
        if self.use is not None and not set(self.use.layers or ()) <= set(self.layers):
            raise ValueError(f"to be used at layers {self.use.layers}, and it has {self.layers}")

    def __eq__(self, other: object) -> bool:
        return self.vector_id == other.vector_id if isinstance(other, SteeringVector) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.vector_id)

    def __repr__(self) -> str:
        n_layers, width = self.values.shape
        at = f"layer {self.layers[0]}" if n_layers == 1 else f"{n_layers} layers"
        use = "" if self.use is None else f"; {self.use}"
        return f"<SteeringVector {self.name!r}: {self.method}, {at} of {width}, {self.vector_id[:SHORT_ID]}{use}>"

    def _repr_html_(self) -> str:
        """Norm and AUC by layer, for a notebook."""
        width = self.values.shape[1]
        facts: list[tuple[str, object]] = [
            ("method", self.method.replace("_", " ")),
            ("concept", self.concept),
            ("added at", self.site),
            ("width", width),
            ("fitted on", None if self.fitted_on is None else self.fitted_on.name),
            ("id", self.vector_id[:SHORT_ID]),
        ]
        said = {d.get("layer"): d.get("auc") for d in self.diagnostics}
        auc = [float(v) if isinstance(v := said.get(layer), int | float) else math.nan for layer in self.layers]
        if len(self.layers) == 1:
            facts[4:4] = [("layer", self.layers[0]), ("norm", f"{self.norms[0]:.4g}")]
            facts += [] if math.isnan(auc[0]) else [("AUC", f"{auc[0]:.3f}")]
            return notebook_html(f"Steering vector {self.name}", facts)
        norms = Series(name="norm", x=self.layers, y=[float(n) for n in self.norms])
        pictures = [line_chart([norms], Axes(title="Norm by layer", x="layer", y="norm", y_zero=True))]
        if any(math.isfinite(v) for v in auc):
            axes = Axes(title="AUC by layer, held-out rows", x="layer", y="AUC", y_span=(0.5, 1.0))
            pictures.append(line_chart([Series(name="AUC", x=self.layers, y=auc)], axes))
        return notebook_html(f"Steering vector {self.name}", facts, pictures=pictures)

    @property
    def vector_id(self) -> str:
        """SHA-256 over what the vector is and how it was made."""
        head = {
            "method": self.method,
            "concept": self.concept,
            "site": self.site,
            "layers": list(self.layers),
            "provenance": {key: value for key, value in self.provenance.items() if key != LOCATED},
        }
        return digest_bytes(canonical_json(head), np.ascontiguousarray(self.values).tobytes())

    @property
    def hidden_size(self) -> int:
        """Width d of the residual stream it belongs to."""
        return int(self.values.shape[1])

    def at(self, layer: int) -> npt.NDArray[np.float32]:
        """A copy of the direction of one block, shape (d,). Raises KeyError when the vector has no such layer."""
        if layer not in self.layers:
            raise KeyError(layer)
        row: npt.NDArray[np.float32] = self.values[self.layers.index(layer)].copy()
        return row

    def prompted(self, use: VectorUse) -> VectorUse:
        """A use of this vector; what it leaves open of its prompts is that of the texts that the vector was fitted on."""
        on = self.fitted_on
        if on is None:
            return use
        return replace(use, bos=on.bos if use.bos is None else use.bos, chat=on.chat if use.chat is None else use.chat)

    def export(
        self, path: str | PathLike[str], *, to: str | None = None, **options: Unpack[ExportOptions]
    ) -> "ExportedVector":
        """Write it for another tool, in the format `to` or by the file's name; as `steercache.export_vector`, and raises so."""
        return cast("ExportedVector", export(self, path, to=to, options=options))

    def to_gguf(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for llama.cpp (`--control-vector-scaled`). Options and errors of `steercache.export_vector`."""
        return self.export(path, to="gguf", **options)

    def to_easysteer(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for EasySteer, and repeng. Options and errors of `steercache.export_vector`."""
        return self.export(path, to="easysteer", **options)

    def to_steering_vectors(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for the package steering-vectors. Options and errors of `steercache.export_vector`."""
        return self.export(path, to="steering-vectors", **options)

    def to_lm_eval(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for lm-eval (`--model steered`). Options and errors of `steercache.export_vector`."""
        return self.export(path, to="lm-eval", **options)

    def to_saklas(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for saklas. Options and errors of `steercache.export_vector`."""
        return self.export(path, to="saklas", **options)

    def to_vllm_lens(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for vllm-lens. Options and errors of `steercache.export_vector`."""
        return self.export(path, to="vllm-lens", **options)

    def to_pytorch(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for a script that needs only transformers. Options and errors of `steercache.export_vector`."""
        return self.export(path, to="pytorch", **options)

    def to_npz(self, path: str | PathLike[str], **options: Unpack[ExportOptions]) -> "ExportedVector":
        """Write it for numpy. Options and errors of `steercache.export_vector`."""
        return self.export(path, to="npz", **options)

    @property
    def norms(self) -> npt.NDArray[np.float32]:
        """Euclidean norm per layer, shape (l,)."""
        norms: npt.NDArray[np.float32] = np.linalg.norm(self.values, axis=1).astype(np.float32)
        return norms
