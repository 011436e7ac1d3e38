"""Color management: from a file's color information to an ICC profile, and from a profile to sRGB.

Whatever names a color space (PNG's cICP, gAMA and cHRM, AVIF's and HEIC's nclx) becomes an ICC profile, so that one
color engine (LittleCMS) does all conversions. HDR (PQ, HLG) is mapped to SDR by a profile's curve.
"""

import functools
import io
import math
import struct
from collections.abc import Callable, Sequence
from typing import Final

from PIL import Image, ImageCms

Matrix = tuple[tuple[float, float, float], ...]

#: Chromaticities (ITU-T H.273): x and y of white, red, green, blue. PNG's cHRM has the same order.
_D65: Final = (0.3127, 0.3290)
_PRIMARIES: Final[dict[int, tuple[float, ...]]] = {
    1: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # BT.709, sRGB
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),  # BT.470 M
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),  # BT.470 BG
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),  # EBU 3213
}
_SRGB_PRIMARIES: Final = 1
_UNSPECIFIED: Final = 2

SRGB_TRANSFER: Final = 13
BT709_LIKE: Final = frozenset({1, 6, 11, 12, 14, 15})
_GAMMAS: Final = {4: 2.2, 5: 2.8, 8: 1.0}
_PQ, _HLG = 16, 18

#: ICC's parametric curves of type 3: g, a, b, c, d (IEC 61966-2-1; ITU-R BT.709).
_SRGB_CURVE: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709_CURVE: Final = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)

#: Luminance of white in HDR, in cd/m², where it is SDR's (ITU-R BT.2408), and that of PQ's and HLG's brightest.
_WHITE: Final = 203.0
_PQ_PEAK: Final = 10_000.0
_HLG_PEAK: Final = 1_000.0

#: Of SDR's range, up to here HDR is shown as it is; what is brighter is compressed into the rest.
_KNEE: Final = 0.75

#: Exponents outside this range do not occur: the chunk is damaged.
_EXPONENTS: Final = (0.2, 5.0)

#: How colors are adapted from a white to that of profiles, D50 (Bradford).
_D50: Final = (0.9642, 1.0, 0.8249)
_BRADFORD: Final[Matrix] = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))

#: The mode in which an image is handed to its profile, by the profile's color space.
_PROFILED_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


@functools.lru_cache(maxsize=16)
def coded(primaries: int, transfer: int, *, full_range: bool = True) -> bytes | None:
    """The ICC profile of a color space that is named by numbers of ITU-T H.273.

    Empty for sRGB; `None` for numbers that name nothing known.
    """
    primaries = _SRGB_PRIMARIES if primaries == _UNSPECIFIED else primaries
    transfer = SRGB_TRANSFER if transfer == _UNSPECIFIED else transfer
    curve = _curve(transfer, full_range=full_range)
    if primaries not in _PRIMARIES or curve is None:
        return None
    if (primaries, transfer, full_range) == (_SRGB_PRIMARIES, SRGB_TRANSFER, True):
        return b""
    return _profile(_PRIMARIES[primaries], curve)


def calibrated(points: Sequence[float], exponent: float) -> bytes | None:
    """The ICC profile for PNG's cHRM (`points`: x and y of white, red, green, blue; or none) and gAMA (`exponent`, of
    encoding; or 0). Missing or invalid values are sRGB's.

    Empty for sRGB; `None` if all values are invalid.
    """
    plain_curve = not exponent or not _EXPONENTS[0] <= 1 / exponent <= _EXPONENTS[1] or abs(exponent - 1 / 2.2) < 0.002
    curve = _parametric(*_SRGB_CURVE) if plain_curve else _gamma(1 / exponent)
    try:
        if len(points) == 8 and not _is_srgb(points):
            return _profile(points, curve)
    except ZeroDivisionError:
        pass
    return b"" if plain_curve else _profile(_PRIMARIES[_SRGB_PRIMARIES], curve)


def to_srgb(image: Image.Image, profiles: Sequence[bytes]) -> Image.Image:
    """L, RGB or CMYK as RGB, through the first of `profiles` that fits; an empty one is sRGB's."""
    for profile in profiles:
        if not profile:
            break
        try:
            return _transformed(image, profile)
        except (ImageCms.PyCMSError, KeyError, OSError, TypeError, ValueError):
            continue  # A profile that is damaged, or for another color space, is ignored.
    return image.convert("RGB")


def _transformed(image: Image.Image, profile: bytes) -> Image.Image:
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


def _curve(transfer: int, *, full_range: bool) -> bytes | None:
    """The ICC curve from coded to linear values."""
    if transfer in {_PQ, _HLG}:
        return _sampled(_pq if transfer == _PQ else _hlg, full_range=full_range)
    if transfer in _GAMMAS:
        exponent = _GAMMAS[transfer]
        return _gamma(exponent) if full_range else _sampled(lambda code: code**exponent, full_range=False)
    parameters = {SRGB_TRANSFER: _SRGB_CURVE, **dict.fromkeys(BT709_LIKE, _BT709_CURVE)}.get(transfer)
    if parameters is None:
        return None
    return _parametric(*parameters) if full_range else _sampled(lambda code: _bent(code, *parameters), full_range=False)


def _bent(code: float, g: float, a: float, b: float, c: float, d: float) -> float:
    return (a * code + b) ** g if code >= d else c * code


def _pq(code: float) -> float:
    """SMPTE ST 2084: a display's luminance, mapped to SDR."""
    root = code ** (1 / 78.84375)
    level = max(root - 0.8359375, 0.0) / (18.8515625 - 18.6875 * root)
    return _shown(_PQ_PEAK * level ** (1 / 0.1593017578125))


def _hlg(code: float) -> float:
    """ITU-R BT.2100: a scene's light on a display of 1,000 cd/m², mapped to SDR."""
    a = 0.17883277
    scene = code**2 / 3 if code <= 0.5 else (math.exp((code - (0.5 - a * math.log(4 * a))) / a) + 1 - 4 * a) / 12
    return _shown(_HLG_PEAK * scene**1.2)


def _shown(luminance: float) -> float:
    """0 to 1, of SDR's range."""
    level = luminance / _WHITE
    if level <= _KNEE:
        return level
    return _KNEE + (1 - _KNEE) * (1 - math.exp(-(level - _KNEE) / (1 - _KNEE)))


def _sampled(linear: Callable[[float], float], *, full_range: bool) -> bytes:
    """A curve of 4,096 points; without the full range, codes are from 16 to 235 of 255."""
    codes = (at / 4095 for at in range(4096))
    if not full_range:
        codes = (min(max((code * 255 - 16) / 219, 0.0), 1.0) for code in codes)
    values = [round(min(max(linear(code), 0.0), 1.0) * 65535) for code in codes]
    return b"curv\0\0\0\0" + struct.pack(">I4096H", 4096, *values)


def _gamma(exponent: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(exponent)


def _parametric(*parameters: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed(*parameters)


def _is_srgb(points: Sequence[float]) -> bool:
    return all(abs(one - other) < 0.003 for one, other in zip(points, _PRIMARIES[_SRGB_PRIMARIES], strict=True))


def _profile(points: Sequence[float], curve: bytes) -> bytes:
    """An ICC profile (version 4) of a display with these chromaticities; all three channels have one curve.

    Raises:
        ZeroDivisionError: the points span no triangle.
    """
    columns = _columns(points)
    body, table, at = b"", struct.pack(">I", 7), 132 + 12 * 7
    contents = {b"wtpt": _xyz(_D50)} | dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, columns), strict=True))
    for name, content in (contents | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)).items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4xI", at + len(body), 0x04200000) + b"mntrRGB XYZ "
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + table + body


def _columns(points: Sequence[float]) -> tuple[tuple[float, float, float], ...]:
    """XYZ of red, green and blue under D50."""
    white, *primaries = [(x / y, 1.0, (1 - x - y) / y) for x, y in zip(points[::2], points[1::2], strict=True)]
    matrix: Matrix = tuple(zip(*primaries, strict=True))
    scale = _times(_inverse(matrix), white)
    cones, target = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    back = _inverse(_BRADFORD)
    adapted = []
    for primary, factor in zip(primaries, scale, strict=True):
        response = _times(_BRADFORD, tuple(value * factor for value in primary))
        adapted.append(_times(back, tuple(r * t / c for r, t, c in zip(response, target, cones, strict=True))))
    return tuple(adapted)


def _times(matrix: Matrix, vector: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (sum(one * other for one, other in zip(row, vector, strict=True)) for row in matrix)
    return x, y, z


def _inverse(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return (
        ((e * i - f * h) / determinant, (c * h - b * i) / determinant, (b * f - c * e) / determinant),
        ((f * g - d * i) / determinant, (a * i - c * g) / determinant, (c * d - a * f) / determinant),
        ((d * h - e * g) / determinant, (b * g - a * h) / determinant, (a * e - b * d) / determinant),
    )


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _fixed(*values: float) -> bytes:
    """Raises ZeroDivisionError for values that no profile can hold."""
    if any(abs(value) >= 32_767 for value in values):
        raise ZeroDivisionError("out of bounds")
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
