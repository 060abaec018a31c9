"""Synthetic axial brain slices: an endless image set with no patient behind it.

``phantom(subject, slice_, resolution)`` draws one of the 32 slices of one of endlessly many invented subjects the way
a skull-stripped T1-weighted MRI shows them: white matter bright, grey matter mid, fluid dark, exactly 0 outside. It is
for trying and testing, and no measure of anything medical. The front of the head points down, as in the OASIS slices
that these stand in for.

A subject is a handful of numbers (``Anatomy``) and a few smooth random fields in space (``Waves``), all drawn from one
generator keyed by (seed, subject). A slice is a horizontal cut through that subject, painted from continuous
coordinates in which the picture spans -1 to 1, so every resolution shows the same anatomy:

- **Outline**: an egg, wider at the back, notched between temporal and frontal lobe in the low slices, narrower towards
  the vertex, gently warped.
- **Fissure**: a plane between the hemispheres, open in front and behind; the corpus callosum bridges its middle until
  the slices lie above it.
- **Sulci**: where a wave along the hemisphere's rim, bent and branched by random fields, changes its sign. Each sulcus
  reaches in to a depth of its own. The insula is one more, long and set deep.
- **Cortex**: a ribbon along all of these. Brightness is a function of the distance to the nearest of the outline,
  fissure, sulci and insula: fluid, then grey, then white matter, which is what is left inside and runs out into gyri.
- **Deep structures**, each present over its own range of slices: thalamus, lentiform and caudate nucleus; the lateral
  ventricles, tubes from the trigone over the body to the frontal horn that join into an X higher up; the third
  ventricle and the cistern behind it. Some subjects have a dusky rim of white matter about the ventricles.
- **Scanner**: a smooth shading over the head, noise inside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SLICES_PER_SUBJECT = 32
VERSION = 1  # raised whenever a drawn pixel changes: caches and runs are told apart by it

Field = npt.NDArray[np.float64]  # one value for every point of a slice
Knots = Sequence[float]  # a quantity at equal steps from the lowest slice to the highest

FEWEST_POINTS = 128  # pictures of fewer pixels a side are painted larger, then averaged down
EDGE = 0.016  # how far an edge takes to go from one side to the other: about a pixel of 128
SLICE_SPAN = 0.5  # from the lowest slice to the highest, where half a picture is 1
NOISE = 5.0  # grey levels at 256 pixels a side; averaging leaves less at fewer

# x, y and radius of the lateral ventricle at three stations. Where a radius is negative the tube is closed.
TRIGONE: tuple[Knots, Knots, Knots] = (
    (0.27, 0.26, 0.25, 0.22, 0.16, 0.12),
    (-0.4, -0.4, -0.4, -0.38, -0.32, -0.24),
    (0.075, 0.085, 0.095, 0.09, 0.075, 0.045),
)
BODY: tuple[Knots, Knots, Knots] = ((0.08,), (-0.02,), (-0.14, -0.13, -0.08, 0.05, 0.07, 0.06))
FRONTAL_HORN: tuple[Knots, Knots, Knots] = (
    (0.05, 0.06, 0.07, 0.11, 0.12, 0.1),
    (0.3, 0.34, 0.36, 0.35, 0.3, 0.22),
    (-0.04, 0.06, 0.08, 0.08, 0.075, 0.045),
)


class Waves:
    """A smooth random field in space: plane waves in random directions, zero on average, of about unit variance."""

    def __init__(self, rng: np.random.Generator, wavelength: float, count: int = 48) -> None:
        direction = rng.normal(size=(3, count))
        direction *= 2 * np.pi / (wavelength * rng.uniform(0.75, 1.4, count) * np.linalg.norm(direction, axis=0))
        self.across, self.down, self.up = direction
        self.phase = rng.uniform(0, 2 * np.pi, count)

    def __call__(self, points: int, z: float) -> Field:
        """The field at height ``z``, on a grid of ``points`` a side.

        cos(a + b) = cos a cos b - sin a sin b takes rows, columns and height apart: a matrix product adds up all waves.
        It is done in strips, small enough for BLAS to stay on one thread: much faster where cores are shared, and the
        order of the sums, so the last bit, is always the same.
        """
        rows_cos, rows_sin, columns = _wave_tables(self, points)
        turn = self.up * (z * SLICE_SPAN) + self.phase
        c, s = np.cos(turn), np.sin(turn)
        rows = np.hstack([rows_cos * c - rows_sin * s, rows_sin * c + rows_cos * s])
        strip = max(1, 200_000 // columns.size)
        return np.concatenate([rows[top : top + strip] @ columns for top in range(0, points, strip)])


@lru_cache(maxsize=16)
def _wave_tables(waves: Waves, points: int) -> tuple[Field, Field, Field]:
    axis = _axis(points)
    rows, columns = np.outer(axis, waves.down), np.outer(waves.across, axis)
    scale = math.sqrt(2 / len(waves.phase))
    return np.cos(rows), np.sin(rows), scale * np.vstack([np.cos(columns), -np.sin(columns)])


def _axis(points: int) -> Field:
    """Where the points of a row lie: -1 is the left edge of the picture, 1 the right."""
    return np.linspace(1 / points - 1, 1 - 1 / points, points)


@dataclass(frozen=True)
class Anatomy:
    """What makes one subject: lengths where half a picture is 1, brightness in grey levels."""

    key: tuple[int, int]
    # the head
    width: float
    height: float
    egg: float
    shift: tuple[float, float]
    roll: float
    lift: float
    warp: tuple[Waves, Waves]
    # the cortex
    folds: float
    fold_depth: float
    ribbon: float
    atrophy: float
    meander: Waves
    wrinkle: Waves
    branches: Waves
    # inside
    ventricle_growth: tuple[float, float]
    dusk: float
    # the scanner
    fluid: float
    grey: float
    white: float
    bias: float
    shading: Waves


@lru_cache(maxsize=16)
def _anatomy(seed: int, subject: int) -> Anatomy:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, subject))))
    size, growth, lopsided = rng.normal(1, 0.008), rng.uniform(-0.012, 0.028), rng.normal(0, 0.004)
    return Anatomy(
        key=(seed, subject),
        width=0.668 * size * rng.normal(1, 0.012),
        height=0.822 * size * rng.normal(1, 0.008),
        egg=rng.normal(0.1, 0.015),
        shift=(rng.normal(0, 0.004), rng.normal(0, 0.006)),
        roll=rng.normal(0, 0.012),
        lift=rng.normal(0, 0.05),
        warp=(Waves(rng, 0.6), Waves(rng, 0.6)),
        folds=rng.uniform(14, 17),
        fold_depth=rng.uniform(0.12, 0.17),
        ribbon=rng.uniform(0.032, 0.042),
        atrophy=rng.uniform(-0.002, 0.01),
        meander=Waves(rng, 0.5),
        wrinkle=Waves(rng, 0.22),
        branches=Waves(rng, 0.25),
        ventricle_growth=(growth - lopsided, growth + lopsided),
        dusk=rng.uniform(0, 1) ** 2,
        fluid=rng.uniform(24, 44),
        grey=rng.uniform(100, 130),
        white=rng.uniform(200, 225),
        bias=rng.uniform(0.02, 0.07),
        shading=Waves(rng, 1.6),
    )


def _at(z: float, knots: Knots) -> float:
    """A quantity at height ``z`` (0 the lowest slice, 1 the highest)."""
    return float(np.interp(z * (len(knots) - 1), range(len(knots)), knots))


def _length(u: Field, v: Field) -> Field:
    return np.sqrt(u * u + v * v)


def _cover(inside: Field, softness: float = EDGE) -> Field:
    """How much of a point a shape covers, 0 to 1, from its depth inside the shape."""
    return np.clip(inside / softness + 0.5, 0, 1)


def _tube(x: Field, y: Field, start: Knots, end: Knots) -> Field:
    """Depth inside a straight tube between two (x, y, radius); its radius may run from one to the other."""
    dx, dy, dr = (b - a for a, b in zip(start, end, strict=True))
    u, v = x - start[0], y - start[1]
    along = np.clip((u * dx + v * dy) / (dx * dx + dy * dy), 0, 1)
    return start[2] + along * dr - _length(u - along * dx, v - along * dy)


def _ellipse(x: Field, y: Field, centre: Knots, radii: Knots, tilt: float = 0.0) -> Field:
    """Depth inside an ellipse, roughly."""
    c, s = math.cos(tilt), math.sin(tilt)
    u, v = x - centre[0], y - centre[1]
    return (1 - _length((c * u + s * v) / radii[0], (c * v - s * u) / radii[1])) * min(radii)


def _smooth_maximum(p: Field, q: Field, blend: float = 0.04) -> Field:
    return 0.5 * (p + q + np.sqrt((p - q) ** 2 + blend * blend)) - 0.3 * blend


def _head_coordinates(a: Anatomy, points: int, z: float) -> tuple[Field, Field]:
    """x to the right and y to the front of the head, for every point of the picture."""
    axis = _axis(points)
    u, v = axis[None, :] - a.shift[0], axis[:, None] - a.shift[1]
    c, s = math.cos(a.roll), math.sin(a.roll)
    return c * u + s * v + 0.007 * a.warp[0](points, z), c * v - s * u + 0.007 * a.warp[1](points, z)


def _head_size(a: Anatomy, z: float) -> tuple[float, float]:
    return a.width * _at(z, (1, 1, 1, 0.99, 0.94)), a.height * _at(z, (1, 1, 0.99, 0.97, 0.94))


def _depth_below_outline(a: Anatomy, x: Field, y: Field, z: float) -> Field:
    width, height = _head_size(a, z)
    v = y / height
    notch = _at(z, (0.06, 0.04, 0, 0, 0)) * np.exp(-(((v - 0.45) / 0.18) ** 2))
    radius = (np.abs(x / (width * (1 - a.egg * v - notch))) ** 2.15 + np.abs(v) ** 2.15) ** (1 / 2.15)
    return (1 - radius) * _length(x, y) / np.maximum(radius, 0.05)


def _distance_to_fissure(x: Field, y: Field, z: float) -> Field:
    front = np.maximum(_at(z, (0.32, 0.4, 0.45, 0.48, 0.5, 0.5, 0.5, 0.5, 0.47, 0.37, 0)) - y, 0)
    back = np.maximum(_at(z, (0.42, 0.42, 0.42, 0.42, 0.43, 0.44, 0.45, 0.46, 0.45, 0.36, 0)) + y, 0)
    return _length(x, np.minimum(front, back))


def _distance_to_sulci(a: Anatomy, x: Field, y: Field, z: float, depth: Field, branches: Field) -> Field:
    """Distance to the nearest sulcus, for points ``depth`` below the surface of their hemisphere."""
    # Where along the rim of its hemisphere a point lies, front (0) to back (pi): the angle of elliptic coordinates,
    # whose lines meet the rim at right angles and do not converge inside.
    width, height = _head_size(a, z)
    focus = 0.62 * math.sqrt(height * height - width * width / 4)
    aside = (np.abs(x) - width / 2) ** 2 + 0.0015
    nearer_front = np.sqrt((y + focus) ** 2 + aside) - np.sqrt((y - focus) ** 2 + aside)
    rim = np.arccos(np.clip(nearer_front / (2 * focus), -1, 1))

    points = len(x)
    meander = a.meander(points, z)
    wave = np.cos(a.folds * rim + 1.5 * meander + 0.6 * a.wrinkle(points, z)) + 0.7 * branches
    slope = np.gradient(wave, 2 / points)
    distance = np.abs(wave) / np.sqrt(slope[0] ** 2 + slope[1] ** 2 + 4)

    reach = a.fold_depth * (1 + 0.4 * np.sin(7 * rim + 1.5 * meander))
    gaping, tapering = 0.016 * np.exp(depth / -0.035), 0.05 * depth
    return _length(distance, np.maximum(depth - reach, 0)) + tapering - gaping


def _distance_to_insula(x: Field, y: Field, z: float, bend: Field) -> Field:
    side = np.abs(x)
    floor = _tube(side + bend, y, (0.47, 0.0, 0.0), (0.42, 0.33, 0.01))
    mouth = _tube(side, y + bend, (0.46, 0.25, 0.0), (0.75, 0.4, 0.02))
    return _at(z, (0, 0, 0.1, 0.3, 0.3)) - np.maximum(floor, mouth)


def _cortex(a: Anatomy, pial: Field) -> Field:
    """Brightness from the distance to the surface of the cortex: fluid, grey matter, white matter."""
    distance = (-0.01, 0, a.ribbon / 2, a.ribbon, a.ribbon + 0.025, a.ribbon + 0.08)
    brightness = (a.fluid, a.fluid + 15, a.grey - 10, a.grey + 30, 0.96 * a.white, a.white)
    return np.interp(pial - a.atrophy, distance, brightness)


def _lateral_ventricles(a: Anatomy, x: Field, y: Field, z: float, ripple: Field) -> Field:
    """Depth inside the lateral ventricles; a thin septum parts them."""
    trigone, body, horn = (tuple(_at(z, knots) for knots in station) for station in (TRIGONE, BODY, FRONTAL_HORN))
    side = np.abs(x)
    tube = _smooth_maximum(_tube(side, y, trigone, body), _tube(side, y, body, horn))
    growth = np.where(x < 0, *a.ventricle_growth) + _at(z, (0, 0, 0, 0, 0, -0.07))
    return np.minimum(tube + growth + ripple, side - 0.006)


def _paint_deep_structures(image: Field, a: Anatomy, x: Field, y: Field, z: float, ripple: Field) -> None:
    def paint(inside: Field, brightness: float, strength: float = 1.0, softness: float = EDGE) -> None:
        if strength > 0:
            image[:] += (brightness - image) * (strength * _cover(inside, softness))

    side = np.abs(x)
    nucleus = 0.55 * a.white + 0.45 * a.grey
    bent = side + 3 * ripple
    paint(_ellipse(bent, y, (0.12, -0.06), (0.1, 0.19), 0.3), nucleus, _at(z, (1, 1, 1, 0, 0)), 0.04)
    paint(_ellipse(bent, y, (0.29, 0.1), (0.08, 0.2), -0.2), nucleus - 8, _at(z, (1, 1, 0.8, 0, 0)), 0.06)
    paint(_ellipse(bent, y, (0.15, 0.3), (0.06, 0.13), -0.2), nucleus - 12, _at(z, (0.7, 1, 1, 0.9, 0)), 0.04)

    lateral = _lateral_ventricles(a, x, y, z, ripple)
    paint(lateral + 0.045, nucleus, a.dusk, 0.07)
    paint(lateral, a.fluid, _at(z, (*[1] * 10, 0.2)))
    paint(_tube(side, y, (0, -0.15, 0.02), (0, 0.1, 0.025)) - _at(z, (0, 0, 0.05, 0.06, 0.06)), a.fluid)
    paint(_ellipse(side, y, (0, -0.3), (0.11, 0.07)) - _at(z, (0, 0.04, 0.08, 0.08, 0.08)), a.fluid)


def _averaged(image: Field, factor: int) -> Field:
    rows, columns = (length // factor for length in image.shape)
    return image.reshape(rows, factor, columns, factor).mean(axis=(1, 3))


def _draw(a: Anatomy, slice_: int, resolution: int) -> npt.NDArray[np.uint8]:
    factor = -(-FEWEST_POINTS // resolution)
    points = resolution * factor
    z = slice_ / (SLICES_PER_SUBJECT - 1) + a.lift

    x, y = _head_coordinates(a, points, z)
    below = _depth_below_outline(a, x, y, z)
    depth = np.minimum(below + 0.028, _distance_to_fissure(x, y, z))
    branches = a.branches(points, z)
    sulci = _distance_to_sulci(a, x, y, z, depth, branches)
    insula = _distance_to_insula(x, y, z, 0.02 * branches)
    image = _cortex(a, np.minimum(np.minimum(depth, sulci), insula))
    _paint_deep_structures(image, a, x, y, z, 0.005 * branches)
    image *= 1 + a.bias * a.shading(points, z)

    head = _cover(below)
    image, head = _averaged(image * head, factor), _averaged(head, factor)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*a.key, slice_, resolution))))
    image += head * rng.standard_normal(image.shape) * (NOISE * resolution / 256)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def phantom(subject: int, slice_: int, resolution: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """One slice of one invented subject: ``(resolution, resolution)``, 0 outside the head.

    Args:
        subject: any number from 0; each is a brain of its own.
        slice_: 0 (thalami, above the temporal lobes) to 31 (above the ventricles).
        resolution: pixels a side.
        seed: another endless set of subjects.

    Raises:
        ValueError: there is no such slice.
    """
    if not 0 <= slice_ < SLICES_PER_SUBJECT:
        raise ValueError(f"slice {slice_}: a phantom has slices 0 to {SLICES_PER_SUBJECT - 1}")
    return _draw(_anatomy(seed, subject), slice_, resolution)


def phantom_subject(subject: int, resolution: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """All slices of one invented subject, lowest first: ``(32, resolution, resolution)``. See ``phantom``."""
    return np.stack([phantom(subject, slice_, resolution, seed=seed) for slice_ in range(SLICES_PER_SUBJECT)])
