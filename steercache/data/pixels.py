"""The pixels of a picture as an image processor gets them. The one module of this package that needs Pillow."""

import io

import PIL.Image
import PIL.ImageOps

_WHITE = (255, 255, 255, 255)


def upright_rgb(opened: PIL.Image.Image) -> PIL.Image.Image:
    """An opened picture as RGB, turned as its EXIF says; what is transparent lies on white.

    These are the pixels that the image processors of transformers make of an opened picture (`convert_to_rgb`). Of a path, its
    `load_image` drops the transparency instead and shows what lies hidden under it.

    Raises:
        ValueError: grey of more than 8 bits (modes I, I;16, F), which Pillow and the processors clip to white or black.
    """
    if opened.mode == "F" or opened.mode.startswith("I"):
        raise ValueError(
            f"its grey has more than 8 bits (mode {opened.mode}) and would be clipped: save it with 8 bits"
        )
    upright = PIL.ImageOps.exif_transpose(opened)
    if "A" not in upright.getbands() and upright.info.get("transparency") is None:
        return upright.convert("RGB")
    clear = upright.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", clear.size, _WHITE), clear).convert("RGB")


def small_jpeg(picture: bytes, side: int) -> bytes:
    """A picture as models get it, its longer side at most `side` pixels, as the bytes of a JPEG file without metadata.

    Raises:
        ValueError: as `upright_rgb`; OSError: no picture that Pillow can read.
    """
    sink = io.BytesIO()
    with PIL.Image.open(io.BytesIO(picture)) as opened:
        small = upright_rgb(opened)
    small.thumbnail((side, side))
    small.save(sink, format="JPEG", quality=82)
    return sink.getvalue()
