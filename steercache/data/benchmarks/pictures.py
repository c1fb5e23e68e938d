"""Pictures of a data set, read when they are needed and never from outside the set's folder."""

from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

from steercache.core.errors import DamagedError, ManifestError, MissingExtraError, Problem, SteercacheError
from steercache.core.examples import ImageRef
from steercache.core.excerpts import excerpt
from steercache.data.inside import leads_out

HEAD = 16  # bytes that tell a picture from something else


class OutsideFolderError(ManifestError):
    """A path inside a data file points out of the data set's folder."""


def resolve_under(folder: Path, relative: str) -> Path:
    """The file `relative` names inside `folder`, links followed.

    Raises:
        OutsideFolderError: it is absolute, climbs out with "..", or a link leads out.
    """
    pure = PurePosixPath(relative.replace("\\", "/"))
    problem = Problem(loc=relative, kind="outside_folder", message="the path leads out of the data set's folder")
    if not relative or "\0" in relative or pure.is_absolute() or ".." in pure.parts or Path(relative).is_absolute():
        raise OutsideFolderError(f"{excerpt(relative)} leads out of the data set's folder", problems=(problem,))
    root = folder.resolve()
    try:
        path = (root / pure).resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle; half a surrogate pair in the name
        raise OutsideFolderError(
            f"{excerpt(relative)} names no file of the data set's folder", problems=(problem,)
        ) from None
    if leads_out(root, path):
        raise OutsideFolderError(f"{excerpt(relative)} leads out of the data set's folder", problems=(problem,))
    return path


def looks_like_picture(head: bytes) -> bool:
    """Whether the first bytes are those of a PNG, JPEG, GIF, WebP, BMP or TIFF file."""
    return head.startswith(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
    ) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def check_head(head: bytes) -> str | None:
    """What is wrong with a picture that begins with `head`; None if nothing is to be seen yet."""
    if not head:
        return "the picture is empty"
    if not looks_like_picture(head):
        return f"not a picture: it begins with {head[:8]!r}"
    return None


def file_picture(folder: Path, relative: str) -> ImageRef:
    """A picture in a file of the data set; the path is checked now, the file is read at first use.

    Raises:
        OutsideFolderError: the path leads out of the folder.
    """
    return ImageRef(name=relative, load=partial(_bytes_of, resolve_under(folder, relative), relative))


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise DamagedError(f"the picture cannot be read: {err.strerror or err}", place=name) from err


def read_head(folder: Path, relative: str) -> tuple[bytes, str | None]:
    """First bytes of a picture file and what is wrong with the file, if anything."""
    try:
        with resolve_under(folder, relative).open("rb") as file:
            head = file.read(HEAD)
    except OutsideFolderError as err:
        return b"", err.message
    except OSError as err:
        return b"", f"the picture {excerpt(relative)} cannot be read: {err.strerror or err}"
    return head, check_head(head)


def decode_problem(image: ImageRef) -> str | None:
    """What is wrong with a picture when it is decoded to the last pixel; None if it is whole. Needs Pillow.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as err:
        raise MissingExtraError("decoding pictures needs Pillow", hint="pip install 'steercache[models]'") from err
    try:
        with Image.open(BytesIO(image.load())) as picture:
            picture.load()
    except SteercacheError as err:
        return err.message
    except Exception as err:  # Pillow raises many kinds on damaged bytes; each is the picture's fault
        return f"the picture does not decode: {err}"
    return None
