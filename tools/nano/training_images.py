"""Procedural images, the only training data of the nano model.

Most are "dead leaves" scenes (Lee, Mumford and Huang, 2001): shapes of power-law sizes that occlude each other, over a
sky-like gradient, with 1/f texture, shading and soft edges. Such scenes share with photographs what matters to a
compressor and to a moving camera: their spectrum, their edges and their flat regions. A share of them is out of focus,
has a sharp foreground over a blurred scene, writing, thin lines, or the many small leaves of foliage; others are clear
skies and clouds, whose errors show most.
"""

from __future__ import annotations

from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 288, 512
PER_TASK = 25
TEXTURE_SIZE = 640
TEXTURE_SLOPES = (0.6, 0.9, 1.0, 1.1, 1.3, 1.6)

Array = np.ndarray


def power_law_noise(rng: np.random.Generator, size: int, slope: float) -> Array:
    """A (size, size) field of unit variance whose amplitude spectrum falls as 1/f**slope."""
    f = np.fft.fftfreq(size)
    radius = np.hypot(f[:, None], f[None])
    radius[0, 0] = 1 / size
    amplitude = radius**-slope
    amplitude[0, 0] = 0
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * amplitude).real
    return (field / field.std()).astype(np.float32)


def _patch(rng: np.random.Generator, textures: list[Array], height: int, width: int) -> Array:
    texture = textures[rng.integers(len(textures))]
    y, x = rng.integers(0, texture.shape[0] - max(height, width), 2)
    return texture[y : y + height, x : x + width]


def _palette(rng: np.random.Generator) -> Array:
    """Three to six colors around one base color, (n, 3) in 0..1."""
    base, saturation = rng.uniform(0, 1, 3), rng.uniform(0.1, 0.9)
    colors = base * (1 - saturation) + saturation * rng.uniform(0, 1, (rng.integers(3, 7), 3))
    return np.clip(colors * rng.uniform(0.6, 1.2), 0, 1)


def _background(rng: np.random.Generator, palette: Array, textures: list[Array], height: int, width: int) -> Array:
    """A gradient between two colors, often a horizon, with a little texture; (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    first, second = palette[rng.integers(len(palette))], palette[rng.integers(len(palette))]
    if rng.random() < 0.7:
        t = np.clip((y / height - rng.uniform(0.2, 0.8)) * rng.uniform(0.7, 6) + 0.5, 0, 1)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        t = (x * np.cos(angle) + y * np.sin(angle)) / width
    image = (first * (1 - t[..., None]) + second * t[..., None]).astype(np.float32)
    strength = rng.uniform(0, 0.12) * rng.uniform(0.5, 1, 3).astype(np.float32)
    return image + _patch(rng, textures, height, width)[..., None] * strength


def _inside(rng: np.random.Generator, u: Array, v: Array, r: float) -> Array:
    """Distance in pixels to the edge of a random shape of radius r (positive inside), on coordinates u, v."""
    aspect = np.exp(rng.uniform(-1.2, 0))
    kind = rng.integers(4)
    if kind == 0:
        return r * aspect**0.5 * (1 - np.hypot(u / r, v / (r * aspect)))
    if kind == 1:
        return np.minimum(r - np.abs(u), r * aspect - np.abs(v))
    if kind == 2:
        d = 1.4 * r - np.hypot(u, v)
        for _ in range(rng.integers(3, 7)):
            a = rng.uniform(0, 2 * np.pi)
            d = np.minimum(d, r * rng.uniform(0.35, 1) - (np.cos(a) * u + np.sin(a) * v))
        return d
    phase = np.arctan2(v, u)
    wobble = 0.2 * np.sin(rng.integers(2, 6) * phase + rng.uniform(0, 6))
    wobble = wobble + 0.12 * np.sin(rng.integers(3, 9) * phase + rng.uniform(0, 6))
    return r * 0.8 * (1 + wobble) - np.hypot(u, v)


def _radii(rng: np.random.Generator) -> Array:
    """Power-law sizes; often the big shapes first, so that small things lie on top, as in scenes."""
    count, low, high = int(rng.choice([15, 40, 100, 220, 400])), rng.choice([2, 4, 8, 16]), rng.choice([60, 120, 220])
    e = 1 - rng.uniform(1.2, 2.5)
    radii = (low**e + rng.uniform(0, 1, count) * (high**e - low**e)) ** (1 / e)
    return np.sort(radii)[::-1] if rng.random() < 0.6 else radii


def _add_leaf(
    rng: np.random.Generator, image: Array, palette: Array, textures: list[Array], r: float, grain: float, soft: float
) -> None:
    """Draw one shape of radius r over the image, in place."""
    height, width = image.shape[:2]
    cx, cy, reach = rng.uniform(-r, width + r), rng.uniform(-r, height + r), int(r * 1.5) + 3
    x0, x1 = max(0, int(cx) - reach), min(width, int(cx) + reach)
    y0, y1 = max(0, int(cy) - reach), min(height, int(cy) + reach)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    angle = rng.uniform(0, np.pi) if rng.random() < 0.7 else rng.choice([0, np.pi / 2])
    u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
    v = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
    d = _inside(rng, u, v, r)
    mask = np.clip(d / (soft if rng.random() < 0.85 else rng.uniform(1, 8)) + 0.5, 0, 1)
    if rng.random() < 0.06:
        mask = mask * rng.uniform(0.3, 0.8)
    color = palette[rng.integers(len(palette))] * rng.uniform(0.5, 1.3) + rng.normal(0, 0.05, 3)
    leaf = color.astype(np.float32) * (1 + rng.normal(0, 0.25) * (u / r)[..., None])
    if rng.random() < 0.7:
        leaf = leaf + (_patch(rng, textures, *u.shape) * grain * rng.uniform(0.2, 1))[..., None]
    if rng.random() < 0.08:
        leaf = leaf + (np.sin(u * rng.uniform(0.3, 1.6)) * rng.uniform(0.05, 0.3))[..., None]
    if rng.random() < 0.3:
        leaf = leaf * (1 - 0.5 * np.exp(-np.maximum(d, 0) / (r * 0.3)))[..., None]
    mask = mask[..., None].astype(np.float32)
    image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (1 - mask) + leaf * mask


def _add_leaves(
    rng: np.random.Generator, image: Array, palette: Array, textures: list[Array], radii: Array, soft: float
) -> None:
    grain = rng.uniform(0, 0.2)
    for r in radii:
        _add_leaf(rng, image, palette, textures, float(r), grain, soft)


def _leaves(rng: np.random.Generator, textures: list[Array], height: int, width: int) -> Array:
    palette = _palette(rng)
    image = _background(rng, palette, textures, height, width)
    _add_leaves(rng, image, palette, textures, _radii(rng), rng.uniform(0.5, 1.2))
    return image


def _foliage(rng: np.random.Generator, textures: list[Array], height: int, width: int) -> Array:
    """A great many small leaves of few colors over a scene."""
    image, palette = _leaves(rng, textures, height, width), _palette(rng)
    radii = np.exp(rng.uniform(np.log(1.5), np.log(rng.uniform(4, 20)), rng.integers(300, 1200)))
    _add_leaves(rng, image, palette, textures, radii, rng.uniform(0.5, 1))
    return image


def _sky(rng: np.random.Generator, textures: list[Array], height: int, width: int) -> Array:
    """A gradient, clear or with clouds; sometimes a few things in front of it."""
    palette = _palette(rng)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = np.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    t = (x * np.cos(angle) + y * np.sin(angle)) / (width if abs(np.cos(angle)) > 0.5 else height)
    if rng.random() < 0.3:
        t = np.hypot(x / width - rng.uniform(0, 1), y / width - rng.uniform(0, 0.6)) * rng.uniform(0.5, 2)
    t = np.clip(t * rng.uniform(0.3, 1.2) + rng.uniform(-0.1, 0.3), 0, 1)[..., None]
    image = (palette[0] * (1 - t) + palette[1] * t).astype(np.float32)
    if rng.random() < 0.5:
        clouds = cv2.GaussianBlur(_patch(rng, textures[-2:], height, width), (0, 0), rng.uniform(0.5, 4))
        image += (np.clip(clouds * rng.uniform(0.5, 2) + rng.uniform(-1, 0.5), 0, 2) * rng.uniform(0, 0.2))[..., None]
    if rng.random() < 0.4:
        _add_leaves(rng, image, palette, textures, rng.uniform(2, 80, rng.integers(1, 12)), rng.uniform(0.5, 1.2))
    return image + rng.normal(0, rng.uniform(0, 0.006), image.shape).astype(np.float32)


def _out_of_focus(rng: np.random.Generator, textures: list[Array], height: int, width: int) -> Array:
    """A blurred scene, often with a few sharp things in front of it."""
    image = cv2.GaussianBlur(_leaves(rng, textures, height, width), (0, 0), np.exp(rng.uniform(0, 2.6)))
    if rng.random() < 0.7:
        radii = np.sort(rng.uniform(4, 120, rng.integers(1, 25)))[::-1]
        _add_leaves(rng, image, _palette(rng), textures, radii, rng.uniform(0.5, 1.2))
    return image


def _with_writing(rng: np.random.Generator, textures: list[Array], height: int, width: int) -> Array:
    """A scene with lines of letters and thin straight lines."""
    image = _leaves(rng, textures, height, width) if rng.random() < 0.7 else _sky(rng, textures, height, width)
    drawn = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    canvas = ImageDraw.Draw(drawn)
    for _ in range(rng.integers(2, 16)):
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        x, y = rng.uniform(-20, width), rng.uniform(-5, height)
        if rng.random() < 0.6:
            letters = "".join(chr(c) for c in rng.integers(33, 127, rng.integers(3, 25)))
            canvas.text((x, y), letters, fill=color, font=ImageFont.load_default(float(np.exp(rng.uniform(2, 4)))))
        else:
            end = (x + rng.normal(0, width / 2), y + rng.normal(0, height / 2))
            canvas.line(((x, y), end), fill=color, width=int(rng.integers(1, 4)))
    image = np.asarray(drawn, dtype=np.float32) / 255
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))


KINDS = ((_leaves, 0.45), (_foliage, 0.1), (_sky, 0.15), (_out_of_focus, 0.15), (_with_writing, 0.15))
"""What is drawn, with shares."""


def draw(rng: np.random.Generator, textures: list[Array], height: int = HEIGHT, width: int = WIDTH) -> Array:
    """One image, uint8 (height, width, 3)."""
    kinds, shares = zip(*KINDS, strict=True)
    image = kinds[rng.choice(len(kinds), p=shares)](rng, textures, height, width)
    image = image * rng.uniform(0.8, 1.15) + rng.normal(0, 0.05)
    if rng.random() < 0.3:
        tilt = (np.arange(width) / width - 0.5)[None] * rng.normal() + (np.arange(height) / height - 0.5)[
            :, None
        ] * rng.normal()
        image = image * (1 + 0.5 * tilt)[..., None]
    return (np.clip(image, 0, 1) * 255 + rng.uniform(0, 1, image.shape)).clip(0, 255).astype(np.uint8)


def _task(seed: int) -> Array:
    rng = np.random.default_rng(seed)
    textures = [power_law_noise(rng, TEXTURE_SIZE, slope) for slope in TEXTURE_SLOPES]
    return np.stack([draw(rng, textures) for _ in range(PER_TASK)])


def make_bank(path: Path, count: int, workers: int = 1) -> Array:
    """Load the bank of images, uint8 (count, HEIGHT, WIDTH, 3); draw and save it first if it does not exist."""
    if not path.exists():
        with Pool(workers) as pool:
            bank = np.concatenate(pool.map(_task, range(-(-count // PER_TASK)), chunksize=1))[:count]
        temporary = path.with_suffix(".partial.npy")
        np.save(temporary, bank)
        temporary.rename(path)
    return np.load(path, mmap_mode="c")
