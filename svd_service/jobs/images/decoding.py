"""From a file to an image of the size to be generated: scan, check, decode, resize, sRGB. Runs in decoder processes."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, cast

from PIL import AvifImagePlugin, Image, ImageChops, ImageFile, TiffImagePlugin

from svd_service.errors import AnimatedImageError, BrokenImageError, ImageTooLargeError, NotAnImageError, RejectedError
from svd_service.jobs.images import color
from svd_service.jobs.images.scan import exif, jpeg, jxl, scan, webp
from svd_service.jobs.images.scan.result import Scanned, truncated

#: Longest side in pixels, JPEG's own limit. Beyond it, an image's rows alone (8 bytes each) would fill the memory.
_MAX_SIDE: Final = 65_535

#: Threads of the decoders that have some (AVIF, HEIC, JPEG XL): each takes address space.
_THREADS: Final = 2

#: What turns an image upright, by EXIF's orientation (CIPA DC-008, tag 0x0112); 1 is upright.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))

#: How the size is read ahead of decoders that take memory for all pixels, or decode them, when they open a file.
_SIZES: Final = {"JXL": jxl.size, "WEBP": webp.size}

#: Media types that are not named like Pillow's format.
_MEDIA_TYPES: Final = {"HEIF": "image/heic", "MPO": "image/jpeg"}

#: A JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as this many pixels are left for each one of the video's.
#: Measured on a 12-megapixel photograph for 1024x576: 62 ms rather than 137, and less than one level of 255 off (RMS).
_OVERSAMPLING: Final = 1.5

#: The same trade for every other format, by a box filter ahead of the Lanczos one (Pillow's `reducing_gap`).
_REDUCING_GAP: Final = 3.0

#: A JPEG without its end is taken if at most this many rows are missing: one row of its largest blocks.
_MAX_MISSING_ROWS: Final = 16

# For the whole process. Warnings of Pillow are about flaws in files: nothing an operator could act on.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
AvifImagePlugin.DEFAULT_MAX_THREADS = _THREADS


class Decoded:
    """An image whose header is valid; its pixels are decoded when it is fitted.

    `size` is (width, height) in pixels, upright; `stored_size` is that in the file, whose type is `media_type`.
    """

    def __init__(self, scanned: Scanned, image: ImageFile.ImageFile) -> None:
        self._scanned = scanned
        self._image: Image.Image = image
        self.stored_size = image.size
        self._turn = _TURNS.get(_orientation(scanned, image))
        self._reduced_by = 1.0
        self.media_type = _MEDIA_TYPES.get(scanned.format) or f"image/{scanned.format.lower()}"
        self.size = image.size[::-1] if self._turn in _SIDEWAYS else image.size

    def fitted(self, width: int, height: int, *, pad: bool) -> Image.Image:
        """The image upright, in sRGB, exactly `width` x `height` pixels, without any metadata.

        Cropping takes the center; padding shows all of the image on black. What is transparent becomes white. The
        first call settles how finely a JPEG is decoded, so request the largest size first.

        Raises:
            BrokenImageError: the data are truncated or damaged.
        """
        with rejecting():
            if not pad:
                return self._resampled((width, height), _center(self.size, (width, height)))
            inner = _contained(self.size, (width, height))
            shown = self._resampled(inner, self.size)
            padded = Image.new("RGB", (width, height))
            padded.paste(shown, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return padded

    def close(self) -> None:
        """Free the pixels."""
        self._image.close()

    def _resampled(self, target: tuple[int, int], part: tuple[float, float]) -> Image.Image:
        # The image is turned last, when it is small. Until then, all sizes are those of the image as it is stored.
        if self._turn in _SIDEWAYS:
            target, part = target[::-1], part[::-1]
        self._decode(target, part)
        left, right = self._middle(self.stored_size[0], part[0])
        top, bottom = self._middle(self.stored_size[1], part[1])
        box = (left, top, right, bottom)
        small = _resamplable(self._image).resize(target, Image.Resampling.LANCZOS, box, _REDUCING_GAP)
        return self._clean_rgb(small if self._turn is None else small.transpose(self._turn))

    def _middle(self, whole: int, part: float) -> tuple[float, float]:
        return (whole - part) / 2 / self._reduced_by, (whole + part) / 2 / self._reduced_by

    def _decode(self, target: tuple[int, int], part: tuple[float, float]) -> None:
        (width, height), scale = self.stored_size, _OVERSAMPLING * max(target[0] / part[0], target[1] / part[1])
        wanted = (max(1, int(width * scale)), max(1, int(height * scale)))
        drafted = self._image.draft(None, wanted)
        if drafted:
            self._reduced_by = width / drafted[1][2]
        try:
            self._image.load()
        except OSError:
            if self._scanned.format != "JPEG":
                raise
            self._image = _completed(self._scanned.content, wanted)

    def _clean_rgb(self, image: Image.Image) -> Image.Image:
        """Opaque sRGB on white, without the file's metadata, which may disclose where and when a photo was taken."""
        colors = image.convert(image.mode.removesuffix("A")) if image.mode in {"LA", "RGBA"} else image
        embedded = image.info.get("icc_profile") or b""
        clean = color.to_srgb(colors, self._scanned.profiles if not embedded else (embedded, *self._scanned.profiles))
        if colors is not image:
            canvas = Image.new("RGB", image.size, "white")
            canvas.paste(clean, mask=image.getchannel("A"))
            clean = canvas
        clean.info.clear()
        return clean


def opened(content: bytes, max_pixels: int, allow: Callable[[int], object] = lambda _: None) -> Decoded:
    """The image in `content`, its header checked.

    `allow` is called with the number of pixels before a decoder needs memory for all of them.

    Raises:
        NotAnImageError: the bytes are not an image of a supported format.
        BrokenImageError: an image, but damaged, truncated, or of so rare a kind that it cannot be read.
        AnimatedImageError: it has several frames or pages; of an MPO file the first image is taken.
        ImageTooLargeError: more than `max_pixels`, or more parts than any image needs.
    """
    with rejecting():
        scanned = scan(content)
        if (read_size := _SIZES.get(scanned.format)) is not None:
            width, height = read_size(scanned.content)
            _check_size((width, height), max_pixels)
            allow(width * height)
        image = _identified(scanned)
        _check_size(image.size, max_pixels)
        if scanned.format == "AVIF" and getattr(image, "is_animated", False):
            raise AnimatedImageError("the image has several frames; send one of them")
        _check_overlaps(image)
        return Decoded(scanned, image)


@contextmanager
def rejecting() -> Iterator[None]:
    """Turns any exception that Pillow raises for an upload into a rejection."""
    try:
        yield
    except RejectedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError("the image has many more pixels than are accepted; make it smaller first") from None
    except MemoryError:
        raise ImageTooLargeError("the image needs too much memory to decode") from None
    except Exception as error:
        raise BrokenImageError("the image is damaged or truncated, or of a rare kind that cannot be read") from error


def _identified(scanned: Scanned) -> ImageFile.ImageFile:
    if scanned.format == "HEIF":
        _register_heif()
    elif scanned.format == "JXL":
        _register_jxl()
    return Image.open(io.BytesIO(scanned.content), formats=(scanned.format,))


def _register_heif() -> None:
    """Loaded with the first HEIC: its libraries take 0.1 s and 80 MB of address space."""
    import pillow_heif  # noqa: PLC0415

    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False
    pillow_heif.options.DECODE_THREADS = _THREADS
    pillow_heif.register_heif_opener()


def _register_jxl() -> None:
    """Loaded with the first JPEG XL, where it is installed."""
    try:
        import pillow_jxl  # noqa: F401, PLC0415
        from pillow_jxl import JpegXLImagePlugin  # noqa: PLC0415
    except ImportError:
        raise NotAnImageError(
            "JPEG XL is not supported by this installation (extra `jxl`); convert the image to JPEG or PNG first"
        ) from None
    JpegXLImagePlugin.DECODE_THREADS = _THREADS


def _orientation(scanned: Scanned, image: ImageFile.ImageFile) -> int:
    """EXIF's orientation, as far as the image is not turned when it is loaded, as Pillow does with a TIFF."""
    # Pillow writes the orientation of AVIF's own boxes as EXIF.
    return exif.orientation(image.info.get("exif", b"")) if scanned.format == "AVIF" else scanned.orientation


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > _MAX_SIDE:
        raise ImageTooLargeError(
            f"the image has {width:,} x {height:,} pixels; at most {max_pixels:,} in all are accepted, "
            f"and {_MAX_SIDE:,} a side"
        )


def _check_overlaps(image: ImageFile.ImageFile) -> None:
    """Reject files that draw their few pixels again and again, which would take minutes."""
    parts = (tile.extents for tile in image.tile if tile.extents)
    drawn = sum((right - left) * (lower - upper) for left, upper, right, lower in parts)
    if drawn > image.width * image.height * len(image.getbands()):
        raise BrokenImageError("the image's parts overlap")


def _completed(content: bytes, wanted: tuple[int, int]) -> Image.Image:
    """A JPEG whose file ends too early, if no more is missing than its end marker and a row of blocks.

    Missing rows are found by decoding twice with different filler data: pixels that differ come from the filler.

    Raises:
        BrokenImageError: more is missing.
    """
    if not jpeg.has_all_scans(content):
        raise truncated()
    versions = [_decoded_jpeg(content + filler + b"\xff\xd9", wanted) for filler in (b"", _FILLER)]
    missing = ImageChops.difference(*versions).getbbox()
    reduced = versions[0].height / max(1, _stored_height(content))
    if missing is not None and versions[0].height - missing[1] > max(1.0, _MAX_MISSING_ROWS * reduced):
        raise truncated()
    return versions[0]


#: TIFF's tag for the meaning of values, and its value for grey from white to black.
_PHOTOMETRIC: Final = 262
_WHITE_IS_ZERO: Final = 0

#: Bytes that look like coefficients of anything, without a marker among them.
_FILLER: Final = bytes((at * 97 + at // 7 * 31) % 255 for at in range(4096))


def _decoded_jpeg(content: bytes, wanted: tuple[int, int]) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=("JPEG",))
    image.draft(None, wanted)
    image.load()
    return image


def _stored_height(content: bytes) -> int:
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return image.height


def _center(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float]:
    """The largest part of `size` that has the shape of `target`."""
    scale = min(size[0] / target[0], size[1] / target[1])
    # Rounding may exceed the size by its last bit, which Pillow would reject.
    return min(size[0], target[0] * scale), min(size[1], target[1] * scale)


def _contained(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `target` that has the shape of `size`."""
    scale = min(target[0] / size[0], target[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resamplable(image: Image.Image) -> Image.Image:
    """`image` in a mode whose values may be averaged: L, LA, RGB, RGBA or CMYK."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(image)
    if image.mode in {"LA", "RGBA"}:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in {"L", "RGB", "CMYK"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _grey(image: Image.Image) -> Image.Image:
    """8 bits from more. Only 16 bits have an agreed white; of the others, the greatest value found is made white."""
    levels = image.convert("F")
    # One band has one pair of extremes, which Pillow's type hints do not express.
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else cast("tuple[float, float]", levels.getextrema())
    # Pillow inverts TIFF's WhiteIsZero only up to 8 bits.
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        low, high = high, low
    scale = 255 / ((high - low) or 1.0)
    return levels.point(lambda level: level * scale + (0.5 - low * scale)).convert("L")
