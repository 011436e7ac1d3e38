"""An image of any mode and any color profile becomes opaque sRGB with the intended look."""

import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from tests.unit.jobs.images.image_files import (
    ADOBE_RGB,
    BLACK,
    BLUE,
    DISPLAY_P3,
    GAMMA,
    GREEN,
    PHOTO,
    RED,
    SRGB,
    WHITE,
    difference,
    fitted,
    ink_profile,
    is_about,
    pixel,
    png_chunks,
    png_of,
    profile_of,
    rgb_profile,
    stored,
    xyz,
)


def test_transparent_pixels_become_white() -> None:
    image = Image.new("RGBA", (64, 48), (*RED, 0))
    image.paste((*BLUE, 128), (32, 0, 64, 48))
    for kind in ("png", "lossless webp", "raw tiff"):
        found = fitted(stored(image, kind))
        assert pixel(found, (8, 8)) == WHITE
        assert is_about(pixel(found, (56, 8)), (127, 127, 255), 1)


def test_transparency_by_palette_or_color_becomes_white() -> None:
    palette = Image.new("P", (64, 48), 3)
    palette.putpalette([*BLACK, *RED, *GREEN, *BLUE])
    for kind, transparency in (("png", 3), ("gif", 3), ("png", b"\xff\xff\xff\x00")):
        assert pixel(fitted(stored(palette, kind, transparency=transparency))) == WHITE
    assert pixel(fitted(stored(Image.new("RGB", (64, 48), GREEN), "png", transparency=GREEN))) == WHITE
    assert pixel(fitted(stored(Image.new("L", (64, 48), 9), "png", transparency=9))) == WHITE
    assert pixel(fitted(stored(Image.new("LA", (64, 48), (9, 0)), "png"))) == WHITE


def test_colors_do_not_bleed_out_of_transparent_pixels() -> None:
    image = Image.new("RGBA", (640, 480), (*GREEN, 0))
    image.paste((*RED, 255), (0, 0, 319, 480))
    found = np.asarray(fitted(stored(image, "png")), int)
    assert (found[..., 1] - found[..., 2]).max() == 0


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "png"),
        ("L", "png"),
        ("L", "jpeg"),
        ("LA", "png"),
        ("P", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("CMYK", "jpeg"),
        ("CMYK", "raw tiff"),
        ("LAB", "raw tiff"),
        ("YCbCr", "raw tiff"),
    ],
)
def test_an_image_of_any_mode_is_read(mode: str, kind: str) -> None:
    found = fitted(stored(PHOTO.convert(mode), kind), 32, 24).convert("L")
    assert difference(found, fitted(stored(PHOTO, "png"), 32, 24).convert("L")) < (20 if mode == "1" else 8)


@pytest.mark.parametrize("kind", ["png", "raw tiff", "deflated tiff"])
def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(kind: str) -> None:
    levels = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16)[None], 48, axis=0)
    found = np.asarray(fitted(stored(Image.fromarray(levels), kind)))[20, :, 0]
    assert np.abs(found - levels[0] / 257).max() <= 1


def test_a_transparent_level_of_sixteen_bits_does_not_make_an_image_unreadable() -> None:
    chunks = png_chunks(stored(Image.new("I;16", (64, 48), 40_000), "png"))
    data = png_of([chunks[0], (b"tRNS", (40_000).to_bytes(2, "big")), *chunks[1:]])
    assert is_about(pixel(fitted(data)), (156, 156, 156), 1)


def test_big_endian_grey_of_sixteen_bits_is_read() -> None:
    assert pixel(fitted(stored(Image.new("I;16B", (64, 48), 257 * 100), "raw tiff"))) == (100, 100, 100)


def test_levels_of_any_range_are_stretched_to_eight_bits() -> None:
    levels = np.repeat(np.linspace(-3e8, 9e8, 64)[None], 48, axis=0)
    for values in (levels.astype(np.int32), levels.astype(np.float32), (levels / 1e9).astype(np.float32)):
        found = np.asarray(fitted(stored(Image.fromarray(values), "raw tiff")))[20, :, 0]
        assert np.abs(found - np.linspace(0, 255, 64)).max() <= 1
    assert pixel(fitted(stored(Image.new("F", (64, 48), 5.0), "raw tiff"))) == BLACK


@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "heic", "raw tiff"])
def test_colors_of_a_wide_gamut_become_srgb(kind: str, primaries: npt.NDArray[np.float64]) -> None:
    color = (180, 120, 90)
    linear = np.linalg.inv(SRGB) @ primaries @ (np.array(color) / 255) ** GAMMA
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    data = stored(Image.new("RGB", (64, 48), color), kind, icc_profile=rgb_profile(primaries))
    assert not is_about(tuple(wanted.round().astype(int)), color, 6)
    assert is_about(pixel(fitted(data)), tuple(wanted.round().astype(int)), 3)


def test_a_profile_works_beneath_transparency() -> None:
    profile = rgb_profile(DISPLAY_P3)
    plain = fitted(stored(Image.new("RGB", (64, 48), (180, 120, 90)), "png", icc_profile=profile))
    found = fitted(stored(Image.new("RGBA", (64, 48), (180, 120, 90, 255)), "png", icc_profile=profile))
    assert difference(plain, found) == 0


def test_a_grey_profile_is_applied() -> None:
    profile = profile_of(b"GRAY", b"XYZ ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": b"curv" + b"\0" * 8})
    for mode, color in (("L", 128), ("LA", (128, 255))):
        data = stored(Image.new(mode, (64, 48), color), "png", icc_profile=profile)
        assert is_about(pixel(fitted(data)), (188, 188, 188), 1)


def test_cmyk_is_converted_by_its_profile() -> None:
    # In this profile cyan is a grey of lightness 75 and black is black; in Pillow's own conversion, cyan is cyan.
    for kind in ("jpeg", "raw tiff"):
        data = stored(Image.new("CMYK", (64, 48), (255, 0, 0, 0)), kind, icc_profile=ink_profile())
        assert is_about(pixel(fitted(data)), (185, 185, 185), 4)
        assert is_about(pixel(fitted(stored(Image.new("CMYK", (64, 48)), kind, icc_profile=ink_profile()))), WHITE, 2)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_an_invalid_profile_or_one_of_another_mode_is_ignored(mode: str) -> None:
    image = Image.new(mode, (64, 48), 128 if mode == "L" else (60, 70, 80, 0)[: len(mode)])
    wanted = pixel(fitted(stored(image, "jpeg")))
    grey = profile_of(b"GRAY", b"XYZ ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": b"curv" + b"\0" * 8})
    others = {"L": [ink_profile()], "RGB": [ink_profile(), grey], "CMYK": [rgb_profile(ADOBE_RGB), grey]}
    for profile in (b"junk", rgb_profile(ADOBE_RGB)[:200], profile_of(b"RGB ", b"XYZ ", {}), *others[mode]):
        assert pixel(fitted(stored(image, "jpeg", icc_profile=profile))) == wanted


def test_an_srgb_image_keeps_its_colors() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = stored(Image.new("RGB", (64, 48), (200, 30, 90)), "png", icc_profile=profile)
    assert is_about(pixel(fitted(data)), (200, 30, 90), 1)


# Color spaces that a file names without a profile

COLOR = (180, 120, 90)
P3 = (190, 117, 84)


def png_in(*chunks: tuple[bytes, bytes], color: tuple[int, int, int] = COLOR) -> bytes:
    header, *rest = png_chunks(stored(Image.new("RGB", (64, 48), color), "png"))
    return png_of([header, *chunks, *rest])


def cicp(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> tuple[bytes, bytes]:
    return b"cICP", bytes((primaries, transfer, matrix, full))


def chrm(*points: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in points))


def gama(exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(exponent * 100_000))


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"p\0\0" + zlib.compress(profile)


SRGB_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_POINTS = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([cicp(12, 13)], P3),
        ([cicp(1, 13)], COLOR),
        ([cicp(2, 2)], COLOR),
        ([cicp(9, 13)], (209, 110, 83)),
        ([chrm(*P3_POINTS), gama(1 / 2.2)], P3),
        ([chrm(*P3_POINTS)], P3),
        ([chrm(*SRGB_POINTS), gama(1 / 2.2)], COLOR),
        ([gama(1 / 2.2)], COLOR),
        ([gama(1 / 1.8)], (193, 139, 109)),
    ],
)
def test_the_color_space_that_chunks_of_a_png_name_is_applied(
    chunks: list[tuple[bytes, bytes]], wanted: tuple[int, int, int]
) -> None:
    assert is_about(pixel(fitted(png_in(*chunks))), wanted, 5)


def test_linear_levels_become_srgb() -> None:
    assert is_about(pixel(fitted(png_in(gama(1.0), color=(116, 48, 26)))), COLOR, 3)
    grey = png_chunks(stored(Image.new("L", (64, 48), 55), "png"))
    assert is_about(pixel(fitted(png_of([grey[0], gama(1.0), *grey[1:]]))), (128, 128, 128), 2)


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([cicp(1, 13), iccp(rgb_profile(DISPLAY_P3))], COLOR),
        ([iccp(rgb_profile(DISPLAY_P3)), (b"sRGB", b"\0"), gama(1.0)], P3),
        ([(b"sRGB", b"\0"), gama(1.0), chrm(*P3_POINTS)], COLOR),
        ([iccp(b"junk"), (b"sRGB", b"\0")], COLOR),
        ([iccp(b"junk"), chrm(*P3_POINTS)], P3),
        ([cicp(12, 13, matrix=1), (b"sRGB", b"\0")], COLOR),  # PNG has no YUV
        ([cicp(99, 13), chrm(*P3_POINTS)], P3),
        ([gama(0.0)], COLOR),
        ([chrm(*[0.3] * 8)], COLOR),
        ([chrm(*[0.0] * 8), gama(0.00001)], COLOR),
    ],
)
def test_the_best_of_several_color_spaces_of_a_png_is_applied(
    chunks: list[tuple[bytes, bytes]], wanted: tuple[int, int, int]
) -> None:
    assert is_about(pixel(fitted(png_in(*chunks))), wanted, 5)


def encoded_pq(luminance: float) -> int:
    powered: float = (luminance / 10_000) ** 0.1593017578125
    level: float = ((0.8359375 + 18.8515625 * powered) / (1 + 18.6875 * powered)) ** 78.84375
    return round(255 * level)


@pytest.mark.parametrize(("luminance", "wanted"), [(0, 0), (203 * 0.2140, 127), (203 * 0.0331, 51)])
def test_hdr_levels_within_the_range_of_sdr_keep_their_look(luminance: float, wanted: int) -> None:
    code = encoded_pq(luminance)
    assert is_about(pixel(fitted(png_in(cicp(9, 16), color=(code, code, code)))), (wanted,) * 3, 5)


def test_hdr_highlights_remain_distinguishable() -> None:
    levels = [encoded_pq(luminance) for luminance in (203, 400, 1_000)]
    seen = [pixel(fitted(png_in(cicp(9, 16), color=(code, code, code))))[0] for code in levels]
    assert 235 < seen[0] < seen[1] <= seen[2] <= 255


def test_hlg_is_mapped_to_sdr() -> None:
    # The white of HLG's SDR range is at 75 % (ITU-R BT.2408).
    white, half = (pixel(fitted(png_in(cicp(9, 18), color=(code,) * 3)))[0] for code in (191, 96))
    assert 235 < white < 255
    assert 90 < half < 140


def test_levels_from_16_to_235_are_stretched() -> None:
    low, high = (pixel(fitted(png_in(cicp(1, 13, full=0), color=(code,) * 3)))[0] for code in (16, 235))
    assert (low, high) == (0, 255)


def test_coded_colors_of_an_avif_are_applied() -> None:
    data = stored(Image.new("RGB", (64, 48), COLOR), "avif")
    srgb, p3 = b"colrnclx\0\x01\0\x0d", b"colrnclx\0\x0c\0\x0d"
    assert srgb in data
    assert is_about(pixel(fitted(data)), COLOR, 4)
    assert is_about(pixel(fitted(data.replace(srgb, p3))), P3, 5)
