"""How a model manifest asks for weights to be quantised when they are loaded."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from steercache.manifests.fields import Document, fault


class BitsAndBytes(Document):
    """bitsandbytes: LLM.int8 (arXiv 2208.07339) in 8 bits, block-wise codes (QLoRA, arXiv 2305.14314) in 4."""

    method: Literal["bitsandbytes"]
    bits: Literal[4, 8]
    codes: Literal["nf4", "fp4"] | None = None
    """With 4 bits: normal-float (`nf4`, the default) or 4-bit floating-point codes."""
    nested: bool | None = None
    """With 4 bits: quantise the scales too (double quantisation). Default: no."""
    outliers: Annotated[float, Field(ge=0)] | None = None
    """With 8 bits: columns of activations that reach this size stay in 16 bits (default 6); 0 leaves none out. They are picked
    over a whole batch, so that with them a batch's other rows move a row's values: cells are then computed in full."""

    @model_validator(mode="after")
    def _fields_of_the_bits(self) -> "BitsAndBytes":
        wrong = ("outliers",) if self.bits == 4 else ("codes", "nested")
        given = [name for name in wrong if getattr(self, name) is not None]
        if given:
            raise fault("choice", f"{', '.join(given)} is for {12 - self.bits} bits")
        return self

    def scheme(self) -> dict[str, Any]:
        """Every setting that decides the values, defaults written out."""
        if self.bits == 8:
            return {
                "method": self.method,
                "bits": 8,
                "outliers": 6.0 if self.outliers is None else float(self.outliers),
            }
        return {"method": self.method, "bits": 4, "codes": self.codes or "nf4", "nested": bool(self.nested)}


class TorchAo(Document):
    """torchao: one scale for each row of a weight; with `int8-dynamic` activations are rounded too, token by token."""

    method: Literal["torchao"]
    weights: Literal["int8", "float8", "int8-dynamic"] = "int8"

    def scheme(self) -> dict[str, Any]:
        """Every setting that decides the values."""
        return {"method": self.method, "weights": self.weights}


Quantization = Annotated[BitsAndBytes | TorchAo, Field(discriminator="method")]
