"""What decodes and resizes pictures here: versions, and a hash of a small picture's pixels (JPEG decoders differ in them)."""

import base64
import io
from functools import cache
from typing import Any, Final

import PIL.features
import PIL.Image

from steercache.core.ids import digest_bytes
from steercache.data.pixels import upright_rgb

_HEX_DIGITS = 16
_SMALLER = (13, 11)
_JPEG: Final = (  # 19 x 17 pixels, colours at half the resolution: what decoders fill in differently
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6j"
    "q62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSk"
    "pKSkpKSkpKT/wAARCAARABMDASIAAhEBAxEB/8QAGQABAAMBAQAAAAAAAAAAAAAAAAECAwQF/8QAKRAAAAUBBQgDAAAAAAAAAAAA"
    "AAECAwQhBRETM0ESIiMxQlFygTJhsf/EABcBAAMBAAAAAAAAAAAAAAAAAAIDBAX/xAAgEQACAgEDBQAAAAAAAAAAAAABAgADEhEi"
    "MiExM0Fx/9oADAMBAAIRAxEAPwDCLZvLdF02eSXV3lXaOnsXYbkFQnnb/MxDbEk3l3vO/I+swRfAlUPWCjtiu6c8mCrHVTtp9ANp"
    "MeTjK4zunWfYAxRdoN8ltsObbvZnpxdBo3nL8jABm0d4scVkSc9Xr8AAGuvESK3yN9M//9k="
)


def picture_numerics(processor: Any) -> dict[str, str | None]:
    """Pillow, its JPEG library, the class of the image processor, and the hash of a decoded and resized picture."""
    image_processor = getattr(processor, "image_processor", processor)
    return {
        "pillow": PIL.__version__,
        "jpeg": PIL.features.version_feature("libjpeg_turbo") or PIL.features.version_codec("jpg"),
        "processor": type(image_processor).__name__,
        "pixels": _pixels(),
    }


@cache
def _pixels() -> str:
    with PIL.Image.open(io.BytesIO(base64.b64decode(_JPEG))) as opened:
        image = upright_rgb(opened)
    filters = (PIL.Image.Resampling.BILINEAR, PIL.Image.Resampling.BICUBIC, PIL.Image.Resampling.LANCZOS)
    return digest_bytes(image.tobytes(), *(image.resize(_SMALLER, f).tobytes() for f in filters))[:_HEX_DIGITS]
