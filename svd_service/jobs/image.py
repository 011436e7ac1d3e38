"""A stranger's picture, from untrusted bytes to the clean RGB picture that a video begins with.

Only the API reads strangers' bytes, and it does so here. What a file is, its first bytes decide, never its name or
declared type. Its size and its number of frames are checked from the header, before any pixel is decoded.

There is no least size: a picture of a few pixels can be enlarged like any other, and the caller sees what comes of it.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import BinaryIO, Final, cast

from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError, features

from svd_service.config import Settings
from svd_service.errors import (
    AnimatedPictureError,
    BrokenPictureError,
    NotAPictureError,
    PictureTooLargeError,
    RefusedError,
)
from svd_service.parameters import Fit

#: What is read, by Pillow's names. Phones' MPO files (several JPEGs in one) come in as JPEG.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if features.check("avif") else ()))

#: Longest side in pixels, JPEG's own limit. Beyond it, a picture's rows alone (8 bytes each) would fill the memory.
_MAX_SIDE: Final = 65_535

#: Passes of a progressive JPEG. Cameras and editors write some 10; each takes 3 ms at 49 megapixels, though it may
#: have but 100 bytes, so that 20 MB of them would take ten minutes. By chance, the video within a "motion photo" of
#: 20 MB holds some 300 pairs of bytes that look like the beginning of a pass.
_MAX_SCANS: Final = 500

#: TIFF's fax compressions are left out: libtiff writes a line to stderr for each bad row, gigabytes for one upload.
_TIFF_COMPRESSIONS: Final = frozenset({"raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg"})

#: What turns a picture upright, by EXIF's orientation (CIPA DC-008, tag 0x0112); 1 is upright.
_ORIENTATION: Final = 0x0112
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

#: A JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as this many pixels are left for each one of the video's.
#: Measured on a 12-megapixel photograph for 1024x576: 62 ms rather than 137, and less than one level of 255 off (RMS).
_OVERSAMPLING: Final = 1.5

#: The same trade for every other format, by a box filter ahead of the Lanczos one (Pillow's `reducing_gap`).
_REDUCING_GAP: Final = 3.0

#: The mode in which a picture is handed to its colour profile, by the profile's colour space.
_PROFILED_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}

# Decoding takes up to 15 bytes a pixel (measured: 750 MB for the largest WebP by default), so one at a time in each
# process. More would hardly be faster, and a burst of the largest pictures would take all memory.
_DECODING = threading.Lock()

# For the whole process, since `warnings.catch_warnings` is not safe among threads. Other warnings of Pillow tell of
# flaws in strangers' files: nothing an operator could act on, and each new text would be remembered for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Picture:
    """A picture whose header was found to be good; its pixels are decoded when it is fitted.

    `size` is (width, height) in pixels, upright.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._stored_size = image.size
        self._turn = _turn(image)
        self._reduced_by = 1.0
        self.size = image.size[::-1] if self._turn in _SIDEWAYS else image.size

    def fitted(self, width: int, height: int, fit: Fit) -> Image.Image:
        """The picture upright, in sRGB, exactly `width` x `height` pixels, without any metadata.

        Cropping takes the centre; padding shows all of the picture on black. What is transparent becomes white. The
        first call settles how finely a JPEG is decoded, so ask for the largest size first.

        Raises:
            BrokenPictureError: the data are truncated or damaged.
        """
        with _refusing():
            if fit is not Fit.PAD:
                return self._resampled((width, height), _centre(self.size, (width, height)))
            inner = _contained(self.size, (width, height))
            shown = self._resampled(inner, self.size)
            padded = Image.new("RGB", (width, height))
            padded.paste(shown, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return padded

    def _resampled(self, target: tuple[int, int], part: tuple[float, float]) -> Image.Image:
        # The picture is turned last, when it is small. Until then, all sizes are those of the picture as it is stored.
        if self._turn in _SIDEWAYS:
            target, part = target[::-1], part[::-1]
        self._decode(target, part)
        left, right = self._middle(self._stored_size[0], part[0])
        top, bottom = self._middle(self._stored_size[1], part[1])
        box = (left, top, right, bottom)
        small = _resamplable(self._image).resize(target, Image.Resampling.LANCZOS, box, _REDUCING_GAP)
        return _clean_rgb(small if self._turn is None else small.transpose(self._turn))

    def _middle(self, whole: int, part: float) -> tuple[float, float]:
        return (whole - part) / 2 / self._reduced_by, (whole + part) / 2 / self._reduced_by

    def _decode(self, target: tuple[int, int], part: tuple[float, float]) -> None:
        (width, height), scale = self._stored_size, _OVERSAMPLING * max(target[0] / part[0], target[1] / part[1])
        drafted = self._image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
        if drafted:
            self._reduced_by = width / drafted[1][2]
        self._image.load()


@contextmanager
def open_picture(data: bytes | BinaryIO, settings: Settings) -> Iterator[Picture]:
    """The picture in `data`, for as long as the block lasts; one at a time in each process, the others wait.

    Raises:
        NotAPictureError: the bytes are no picture of a kind in `FORMATS`.
        BrokenPictureError: a picture, but damaged, truncated, or of so rare a kind that it cannot be read.
        AnimatedPictureError: it has several frames or pages; of an MPO file the first picture is taken.
        PictureTooLargeError: more bytes or pixels than `settings` allow.
    """
    content = _bounded(data, settings.max_upload_bytes)
    with _DECODING:
        with _refusing():
            image = _identified(content)
            _check_size(image, settings)
            _check_single(image)
            _check_effort(image, content)
            if image.format == "PNG":
                image.load()  # Its EXIF may stand behind its pixels, whose flaws must not pass for bad EXIF.
            picture = Picture(image)
        with closing(image):  # Frees the pixels, though the caller may still hold the picture.
            yield picture


def encode_png(image: Image.Image) -> bytes:
    """`image` as a PNG. Compressed fast: at 1024x576, level 6 takes four times as long to save 8 % of the bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def _refusing() -> Iterator[None]:
    """Turns whatever Pillow raises over a stranger's bytes, which may be nearly anything, into a refusal."""
    try:
        yield
    except RefusedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureTooLargeError("the picture has many more pixels than are taken; make it smaller first") from None
    except MemoryError:
        raise PictureTooLargeError("decoding the picture would take too much memory") from None
    except Exception as error:
        raise BrokenPictureError("the picture is damaged or truncated, or of a rare kind that is not read") from error


def _bounded(data: bytes | BinaryIO, limit: int) -> bytes:
    content = data if isinstance(data, bytes) else data.read(limit + 1)
    if len(content) > limit:
        raise PictureTooLargeError(f"the picture has more than {limit:,} bytes")
    return content


def _identified(content: bytes) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if _begins_like_a_picture(content[:16]):
            raise
        kinds = ", ".join(FORMATS)
        raise NotAPictureError(f"this is no picture of a kind that is read here ({kinds})") from None


def _begins_like_a_picture(prefix: bytes) -> bool:
    accepting = (Image.OPEN[name][1] for name in FORMATS)
    return any(accepts is not None and accepts(prefix) is True for accepts in accepting)


def _check_size(image: Image.Image, settings: Settings) -> None:
    width, height = image.size
    if width * height > settings.max_pixels or max(image.size) > _MAX_SIDE:
        raise PictureTooLargeError(
            f"the picture has {width:,} x {height:,} pixels; at most {settings.max_pixels:,} in all are taken, "
            f"and {_MAX_SIDE:,} a side"
        )


def _check_single(image: Image.Image) -> None:
    # Not `n_frames`, which walks through all of the file for some formats.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise AnimatedPictureError("the picture has several frames or pages; one is wanted")


def _check_effort(image: ImageFile.ImageFile, content: bytes) -> None:
    """Refuses files whose decoding would take minutes, though their pixels are few enough."""
    if image.format == "TIFF" and image.info.get("compression") not in _TIFF_COMPRESSIONS:
        raise NotAPictureError("this is a TIFF with a compression that is not read here")
    # Markers are counted in all of the file, since what follows the picture may be one more.
    if "progressive" in image.info and content.count(b"\xff\xda") > _MAX_SCANS:
        raise PictureTooLargeError(f"the picture is stored in more than {_MAX_SCANS} passes")
    parts = (tile.extents for tile in image.tile if tile.extents)
    drawn = sum((right - left) * (lower - upper) for left, upper, right, lower in parts)
    if drawn > image.width * image.height * len(image.getbands()):
        raise BrokenPictureError("the picture's parts overlap")


def _turn(image: Image.Image) -> Image.Transpose | None:
    if image.format == "TIFF":
        return None  # Pillow turns these itself when it loads them, and tells their upright size from the first.
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 (bad metadata raise nearly anything, and do not make a bad picture)
        return None


def _centre(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float]:
    """The largest part of `size` that has the shape of `target`."""
    scale = min(size[0] / target[0], size[1] / target[1])
    return target[0] * scale, target[1] * scale


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
    # One band has one pair of extremes; Pillow's types do not tell.
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else cast("tuple[float, float]", levels.getextrema())
    scale = 255 / ((high - low) or 1.0)
    return levels.point(lambda level: level * scale + (0.5 - low * scale)).convert("L")


def _clean_rgb(image: Image.Image) -> Image.Image:
    """Opaque sRGB on white, without the stranger's metadata, which may tell where and when a photo was taken."""
    colours = image.convert(image.mode.removesuffix("A")) if image.mode in {"LA", "RGBA"} else image
    clean = _srgb(colours, image.info.get("icc_profile"))
    if colours is not image:
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(clean, mask=image.getchannel("A"))
        clean = canvas
    clean.info.clear()
    return clean


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK as RGB, through `profile` where it is one that fits."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _PROFILED_MODES[source.profile.xcolor_space.strip()]
            profiled = image.convert("RGB") if (image.mode, mode) == ("L", "RGB") else image
            transform = ImageCms.buildTransform(
                source,
                ImageCms.createProfile("sRGB"),
                mode,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            return transform.apply(profiled)
        except (ImageCms.PyCMSError, KeyError, OSError, TypeError, ValueError):
            pass  # A profile that is bad, or not this picture's, is as good as none.
    return image.convert("RGB")
