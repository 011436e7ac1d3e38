"""Untrusted bytes become a clean image or a rejection; every file here is made by the test that needs it."""

import io
import random
import resource
import struct
from collections.abc import Callable

import pytest
from PIL import ExifTags, Image, ImageChops, ImageFilter
from PIL.PngImagePlugin import PngInfo

from svd_service.config import Settings
from svd_service.errors import (
    AnimatedImageError,
    BrokenImageError,
    ImageTooLargeError,
    NotAnImageError,
    RejectedError,
)
from svd_service.jobs.images.opening import encode_png, open_image
from svd_service.parameters import Fit
from tests.unit.jobs.images.image_files import (
    ANIMATED,
    BLACK,
    BLUE,
    DISPLAY_P3,
    GREEN,
    KINDS,
    PHOTO,
    RED,
    SETTINGS,
    WHITE,
    damaged,
    difference,
    fitted,
    is_about,
    orientation,
    pixel,
    png_chunks,
    png_of,
    rgb_profile,
    specimens,
    stored,
    tiff_of_strips,
    with_size,
)

#: How an upright image is stored under each of EXIF's orientations: the inverse of what a viewer does.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quadrants(width: int = 64, height: int = 48) -> Image.Image:
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, WHITE])
    return image.resize((width, height), Image.Resampling.NEAREST)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    right, lower = image.width - 5, image.height - 5
    return [pixel(image, at) for at in ((4, 4), (right, 4), (4, lower), (right, lower))]


def rejection(data: bytes) -> type[RejectedError]:
    with pytest.raises(RejectedError) as caught:
        fitted(data)
    return caught.type


# Accepted files


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_image(kind: str) -> None:
    found = fitted(stored(PHOTO, kind), 256, 160)
    assert (found.mode, found.size) == ("RGB", (256, 160))
    assert difference(found, fitted(stored(PHOTO, "bmp"), 256, 160)) < (8 if kind == "gif" else 4)


def test_a_stream_is_read_like_bytes() -> None:
    with open_image(io.BytesIO(stored(PHOTO, "jpeg")), SETTINGS) as image:
        assert image.size == PHOTO.size


def test_the_first_of_a_phones_several_images_is_used() -> None:
    data = stored(Image.new("RGB", (640, 480), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    assert is_about(pixel(fitted(data)), RED)


def test_an_image_of_one_pixel_fills_the_frame() -> None:
    for how in (Fit.CROP, Fit.PAD):
        found = fitted(stored(Image.new("RGB", (1, 1), GREEN), "png"), 64, 64, how)
        assert found.getcolors() == [(64 * 64, GREEN)]


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2999, 2), (7, 4001)])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_an_image_of_any_shape_can_be_fitted(size: tuple[int, int], kind: str) -> None:
    data = stored(Image.new("RGB", size, RED), kind)
    assert is_about(pixel(fitted(data, 64, 48), (31, 23)), RED)
    assert is_about(pixel(fitted(data, 64, 48, Fit.PAD), (31, 23)), RED)


# Rejected files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"Dear service, please make a video of a cat.",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>',
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
        b"<!doctype html><title>404</title>",
        b"PK\x03\x04" + b"\0" * 100,
        b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + b"\0" * 100,
    ],
    ids=["nothing", "zeros", "text", "svg", "pdf", "html", "zip", "mp4"],
)
def test_a_file_that_is_no_image_is_rejected_as_such(data: bytes) -> None:
    assert rejection(data) is NotAnImageError


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX"])
def test_an_image_of_another_kind_is_rejected(kind: str) -> None:
    assert rejection(stored(PHOTO, kind)) is NotAnImageError


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_image_is_rejected_as_broken(kind: str, kept: float) -> None:
    data = stored(PHOTO, kind)
    assert rejection(data[: int(len(data) * kept)]) is BrokenImageError


@pytest.mark.parametrize(("kind", "options"), [("webp", {"method": 0}), ("lossless webp", {"method": 0}), ("jxl", {})])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_image_whose_decoder_takes_memory_for_all_pixels_at_once_may_be_large(
    kind: str, options: dict[str, int], mode: str
) -> None:
    large = Image.new(mode, (6_000, 4_500), (10, 200, 30, 255)[: len(mode)])
    image = fitted(stored(large, kind, **options))
    assert image.getpixel((32, 24)) == pytest.approx((10, 200, 30), abs=8)


def test_an_image_that_ends_in_its_header_is_rejected_as_broken() -> None:
    assert rejection(stored(PHOTO, "jpeg")[:40]) is BrokenImageError


@pytest.mark.parametrize("kind", ANIMATED)
def test_an_animated_image_is_rejected(kind: str) -> None:
    frames = [PHOTO.resize((40, 30)), PHOTO.resize((40, 30)).rotate(90)]
    assert rejection(stored(frames[0], kind, save_all=True, append_images=frames[1:])) is AnimatedImageError


def test_an_image_of_too_many_bytes_is_rejected(make_settings: Callable[..., Settings]) -> None:
    data = stored(PHOTO, "png")
    with open_image(data, make_settings(SVD_MAX_UPLOAD_BYTES=len(data))):
        pass
    with (
        pytest.raises(ImageTooLargeError, match="bytes"),
        open_image(data, make_settings(SVD_MAX_UPLOAD_BYTES=len(data) - 1)),
    ):
        pass


def test_a_stream_is_read_no_further_than_the_limit(make_settings: Callable[..., Settings]) -> None:
    stream = io.BytesIO(b"\0" * 10_000)
    with pytest.raises(ImageTooLargeError), open_image(stream, make_settings(SVD_MAX_UPLOAD_BYTES=2_000)):
        pass
    assert stream.tell() == 2_001


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_too_many_pixels_is_rejected_before_it_is_decoded(
    make_settings: Callable[..., Settings], kind: str
) -> None:
    data = stored(PHOTO, kind)
    with (
        pytest.raises(ImageTooLargeError, match="451 x 300"),
        open_image(data, make_settings(SVD_MAX_PIXELS=451 * 300 - 1)),
    ):
        pass


@pytest.mark.parametrize("side", [7_072, 10_000, 16_000, 2**31 - 1])
def test_a_decompression_bomb_is_rejected(make_settings: Callable[..., Settings], side: int) -> None:
    data = with_size(stored(Image.new("L", (8, 8)), "png"), side, side)
    with pytest.raises(ImageTooLargeError, match="pixels"), open_image(data, make_settings()):
        pass


def test_an_image_with_an_endless_side_is_rejected() -> None:
    assert rejection(with_size(stored(Image.new("L", (8, 8)), "png"), 1, 65_536)) is ImageTooLargeError


def test_a_jpeg_of_endless_passes_is_rejected() -> None:
    data = stored(PHOTO, "progressive jpeg")
    first, second = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"][1:3]
    assert rejection(data[:-2] + data[first:second] * 500 + data[-2:]) is ImageTooLargeError


def test_a_tiff_of_overlapping_strips_is_rejected() -> None:
    assert rejection(tiff_of_strips(64, 64, strips=200)) is BrokenImageError


def test_a_tiff_of_strips_is_read() -> None:
    assert fitted(tiff_of_strips(64, 64, strips=2)).getcolors() == [(64 * 48, BLACK)]


def test_a_fax_is_rejected() -> None:
    assert rejection(stored(Image.new("1", (64, 64)), "TIFF", compression="group4")) is NotAnImageError


def test_the_next_image_is_read_after_one_was_rejected() -> None:
    for data in (b"", stored(PHOTO, "jpeg")[:5000]):
        with pytest.raises(RejectedError), open_image(data, SETTINGS) as image:
            image.fitted(64, 48, Fit.CROP)
    with open_image(stored(PHOTO, "jpeg"), SETTINGS) as image:
        assert image.fitted(64, 48, Fit.CROP).size == (64, 48)


# Orientation


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "heic", "raw tiff", "deflated tiff"])
def test_a_turned_image_becomes_upright(kind: str, turned: int) -> None:
    upright, method = quadrants(), STORED[turned]
    lying = upright if method is None else upright.transpose(method)
    with open_image(stored(lying, kind, exif=orientation(turned)), SETTINGS) as image:
        assert image.size == (64, 48)
        found = image.fitted(128, 96, Fit.CROP)
    wanted = (RED, GREEN, BLUE, WHITE)
    assert all(is_about(one, other, 40) for one, other in zip(corners(found), wanted, strict=True))


def test_a_turned_image_is_cropped_and_padded_upright() -> None:
    upright = Image.new("RGB", (40, 120), RED)
    upright.paste(GREEN, (0, 40, 40, 80))
    data = stored(upright.transpose(Image.Transpose.ROTATE_90), "png", exif=orientation(6))
    assert fitted(data, 40, 40).getcolors() == [(1600, GREEN)]
    padded = fitted(data, 120, 120, Fit.PAD)
    assert [pixel(padded, at) for at in ((20, 60), (60, 20), (60, 60), (100, 60))] == [BLACK, RED, GREEN, BLACK]


def test_the_orientation_of_a_png_may_follow_its_pixels() -> None:
    chunks = png_chunks(stored(quadrants(), "png", exif=orientation(6)))
    chunks.insert(-1, chunks.pop([name for name, _ in chunks].index(b"eXIf")))
    with open_image(png_of(chunks), SETTINGS) as image:
        assert image.size == (48, 64)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", orientation(6)[:-9], orientation(77)])
def test_bad_exif_is_ignored(exif: bytes) -> None:
    with open_image(stored(quadrants(), "jpeg", exif=exif), SETTINGS) as image:
        assert image.size == (64, 48)


def test_a_tiff_of_16_bits_whose_white_is_zero_is_not_a_negative() -> None:
    ramp = Image.frombytes("I;16", (64, 8), b"".join((1_000 * x).to_bytes(2, "little") for x in range(64)) * 8)
    data = bytearray(stored(ramp, "tiff"))
    (directory,) = struct.unpack_from("<I", data, 4)
    (number,) = struct.unpack_from("<H", data, directory)
    entries = [directory + 2 + 12 * entry for entry in range(number)]
    (photometric,) = (entry for entry in entries if struct.unpack_from("<H", data, entry)[0] == 262)
    black_is_zero = fitted(bytes(data), 64, 8)
    struct.pack_into("<H", data, photometric + 8, 0)
    white_is_zero = fitted(bytes(data), 64, 8)
    assert pixel(black_is_zero, (0, 4))[0] < 10
    assert difference(white_is_zero, ImageChops.invert(black_is_zero)) < 2


# Size


def test_cropping_keeps_the_center() -> None:
    wide = Image.new("RGB", (300, 100), RED)
    wide.paste(GREEN, (100, 0, 200, 100))
    for kind in ("png", "jpeg"):
        found = fitted(stored(wide, kind, subsampling=0), 100, 100)
        assert is_about(pixel(found, (2, 50)), GREEN)
        assert is_about(pixel(found, (97, 50)), GREEN)


@pytest.mark.parametrize(
    ("size", "wanted"), [((3456, 4608), (640, 480)), ((3024, 4032), (704, 896)), ((1000, 1000), (1200, 800))]
)
def test_the_center_is_within_the_image_although_numbers_are_rounded(size, wanted) -> None:
    assert fitted(stored(Image.new("RGB", size, RED), "jpeg"), *wanted).size == wanted


def test_padding_shows_all_on_black() -> None:
    found = fitted(stored(Image.new("RGB", (300, 100), RED), "png"), 90, 90, Fit.PAD)
    assert [pixel(found, (45, y)) for y in (29, 30, 59, 60)] == [BLACK, RED, RED, BLACK]


def test_a_large_jpeg_decoded_at_a_smaller_scale_loses_no_quality() -> None:
    large = PHOTO.resize((2401, 1599), Image.Resampling.BICUBIC).filter(ImageFilter.UnsharpMask(5, 150, 0))
    data = stored(large, "jpeg")
    whole = Image.open(io.BytesIO(data))
    for width, height in ((256, 256), (320, 200), (1000, 300)):
        scale = min(2401 / width, 1599 / height)
        left, upper = (2401 - width * scale) / 2, (1599 - height * scale) / 2
        box = (left, upper, 2401 - left, 1599 - upper)
        wanted = whole.resize((width, height), Image.Resampling.LANCZOS, box)
        assert difference(fitted(data, width, height), wanted) < 1.5


def test_an_image_can_be_fitted_twice() -> None:
    with open_image(stored(PHOTO.resize((1804, 1200)), "jpeg"), SETTINGS) as image:
        first = image.fitted(300, 200, Fit.CROP)
        assert difference(image.fitted(300, 200, Fit.CROP), first) == 0
        assert difference(image.fitted(150, 100, Fit.CROP), first.resize((150, 100))) < 4


# Metadata


def test_no_metadata_of_the_upload_is_kept() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Somebody's phone"
    text = PngInfo()
    text.add_text("Author", "Somebody's name")
    profile = rgb_profile(DISPLAY_P3)
    for how in (Fit.CROP, Fit.PAD):
        png = encode_png(fitted(stored(PHOTO, "png", exif=exif, pnginfo=text, icc_profile=profile), how=how))
        assert {name for name, _ in png_chunks(png)} == {b"IHDR", b"IDAT", b"IEND"}


def test_a_stored_image_is_read_back_unchanged() -> None:
    found = fitted(stored(PHOTO, "jpeg"))
    again = Image.open(io.BytesIO(encode_png(found)))
    assert (again.mode, again.size, difference(again, found)) == ("RGB", (64, 48), 0)


# Damaged files


def test_damaged_files_yield_an_image_or_a_rejection_and_nothing_else(thorough: bool) -> None:
    number = 150 if thorough else 40
    chance = random.Random(20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"fitted": 0, "rejected": 0}
    for data in specimens(PHOTO.resize((60, 40))):
        for _ in range(number):
            try:
                found = fitted(damaged(data, chance), 32, 24, chance.choice([Fit.CROP, Fit.PAD]))
            except RejectedError:
                outcomes["rejected"] += 1
            else:
                outcomes["fitted"] += 1
                assert (found.mode, found.size, found.info) == ("RGB", (32, 24), {})
    assert min(outcomes.values()) > 3 * number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
