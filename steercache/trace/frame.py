"""What a model's view shows of a picture, read off its image processor. Imports nothing heavy."""

from typing import Any

from steercache.core.frame import ViewFrame
from steercache.models.spec import TokenizerBundle


def frame_of(bundle: TokenizerBundle) -> ViewFrame | None:
    """The part of a picture that is inside a family's one square view; None where it is the whole, stretched or cut in tiles.

    LLaVA's processors resize by the shortest edge and cut off the rest, or first fill the picture up to a square.
    """
    if bundle.processor is None or bundle.family.patches != "square":
        return None
    processor: Any = bundle.processor.image_processor
    padded = bool(getattr(processor, "do_pad", False))
    shortest = _side(getattr(processor, "size", None), "shortest_edge")
    if shortest is None and not padded:
        return None
    crop = (
        _side(getattr(processor, "crop_size", None), "height") if getattr(processor, "do_center_crop", False) else None
    )
    share = crop / shortest if crop and shortest else 1.0
    return ViewFrame(edge="longest" if padded else "shortest", share=share)


def _side(size: Any, name: str) -> int | None:
    """A length of transformers' `SizeDict`, or of the plain dict that older processors have."""
    if size is None:
        return None
    found = size.get(name) if hasattr(size, "get") else getattr(size, name, None)
    return None if found is None else int(found)
