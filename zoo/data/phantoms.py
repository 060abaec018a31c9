"""Synthetic axial brain slices: an endless image set without patients.

``phantom(subject, slice_, resolution)`` draws one of the 32 slices of one of any number of invented subjects, like a
skull-stripped T1-weighted MRI: white matter bright, grey matter medium, fluid dark, exactly 0 outside. For trials and
tests, not for medical measurements. As in the OASIS slices that they replace, the front of the head points down.
"""

# A subject is a few numbers (Anatomy) and smooth random fields in space (Waves), drawn from one generator keyed by
# (seed, subject). A slice is a horizontal cut through it, painted from continuous coordinates in which the image spans
# -1 to 1, so that every resolution shows the same anatomy. Brightness is a function of the distance to the nearest of
# the outline, fissure, sulci and insula: fluid, then grey, then white matter, which fills the inside and the gyri.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy import ndarray

SLICES_PER_SUBJECT = 32
PHANTOM_VERSION = 1  # increase it whenever a drawn pixel changes: the keys of caches depend on it

_Field = ndarray  # float64 (points, points): a value for every point of a slice
_Knots = Sequence[float]  # a quantity at equal steps from the lowest slice to the highest

MIN_POINTS = 128  # per side: smaller images are painted larger, then averaged down
EDGE_WIDTH = 0.016  # of the transition at an edge: about one pixel of 128
INSULA, INSULA_RADIUS = (0, 0, 0.1, 0.3, 0.3), 0.02  # how far it is closed, by height, and its radius at most
DEEP_HALF_WIDTH, DEEP_HALF_HEIGHT = 0.5, 0.62  # what is painted of structures inside lies within
WARP = 0.007  # of the head's coordinates, where half an image is 1
SLICE_SPAN = 0.5  # from the lowest slice to the highest, where half an image is 1
NOISE_LEVELS_AT_256 = 5.0  # grey levels at 256 pixels per side; averaging leaves less at fewer

# x, y and radius of the lateral ventricle at three positions, from the lowest slice to the highest. Where a radius is
# negative the tube is closed.
TRIGONE = (
    (0.27, 0.26, 0.25, 0.22, 0.16, 0.12),
    (-0.4, -0.4, -0.4, -0.38, -0.32, -0.24),
    (0.075, 0.085, 0.095, 0.09, 0.075, 0.045),
)
BODY = ((0.08,), (-0.02,), (-0.14, -0.13, -0.08, 0.05, 0.07, 0.06))
FRONTAL_HORN = (
    (0.05, 0.06, 0.07, 0.11, 0.12, 0.1),
    (0.3, 0.34, 0.36, 0.35, 0.3, 0.22),
    (-0.04, 0.06, 0.08, 0.08, 0.075, 0.045),
)


class Waves:
    """A smooth random field in space, of zero mean and about unit variance.

    It is a sum of plane waves in random directions.
    """

    def __init__(self, rng: np.random.Generator, wavelength: float, count: int = 48) -> None:
        direction = rng.normal(size=(3, count))
        direction *= 2 * np.pi / (wavelength * rng.uniform(0.75, 1.4, count) * np.linalg.norm(direction, axis=0))
        self.across, self.down, self.up = direction
        self.phase = rng.uniform(0, 2 * np.pi, count)

    def __call__(self, part: _Part) -> _Field:
        """Evaluate the field on a part of a slice."""
        points, (rows, columns) = part.points, part.box
        along_rows, along_columns = _wave_tables(self, points)
        # cos(a + b) = cos a cos b - sin a sin b separates rows from columns and height: matrix products sum all waves.
        # Rows above the middle have the same cosines as those below it and the opposite sines, so half are enough.
        turn = self.up * (part.z * SLICE_SPAN) + self.phase
        c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
        columns_cos, columns_sin = along_columns[:, :, columns]
        right = np.stack([columns_cos * c - columns_sin * s, columns_sin * c + columns_cos * s])
        middle = points // 2
        count = max(rows.stop, points - rows.start) - middle
        even, odd = _multiply_in_strips(along_rows[:, :count], right)
        double = points % 2  # the middle row of an odd number is its own mirror image
        field = np.empty((2 * count - double, right.shape[2]))
        np.add(even, odd, out=field[count - 1 :: -1])
        np.subtract(even, odd, out=field[count - double :])
        first = points - middle - count
        return field[rows.start - first : rows.stop - first]


def _multiply_in_strips(left: _Field, right: _Field) -> _Field:
    """Multiply pairs of matrices in strips that are small enough for BLAS to stay on one thread.

    The order of the sums, and thus the last bit, is then always the same, and it is much faster where cores are shared.
    """
    rows = left.shape[1]
    strip = max(1, min(rows, 200_000 // right[0].size))
    whole = rows // strip * strip
    product = np.empty((len(left), rows, right.shape[2]))
    strips = left[:, :whole].reshape(len(left), -1, strip, left.shape[2])
    np.matmul(strips, right[:, None], out=product[:, :whole].reshape(*strips.shape[:3], -1))
    np.matmul(left[:, whole:], right, out=product[:, whole:])
    return product


@lru_cache(maxsize=16)
def _wave_tables(waves: Waves, points: int) -> tuple[_Field, _Field]:
    """Return cosines and sines: (2, rows from the middle on, waves), and (2, waves, columns)."""
    axis = _axis(points)
    rows, columns = np.outer(axis[points // 2 :], waves.down), np.outer(waves.across, axis)
    scale = math.sqrt(2 / len(waves.phase))
    return np.stack([np.cos(rows), np.sin(rows)]), scale * np.stack([np.cos(columns), np.sin(columns)])


def _axis(points: int) -> _Field:
    """Return the coordinates of the points of a row: -1 is the left edge, 1 the right."""
    return np.linspace(1 / points - 1, 1 - 1 / points, points)


class Anatomy:
    """One subject: lengths as shares of half an image, brightness in grey levels."""

    def __init__(self, seed: int, subject: int) -> None:
        # The order of these draws is part of PHANTOM_VERSION: another order draws other subjects.
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, subject))))
        size, growth, asymmetry = rng.normal(1, 0.008), rng.uniform(-0.012, 0.028), rng.normal(0, 0.004)
        self.key = (seed, subject)
        # the head
        self.width = 0.668 * size * rng.normal(1, 0.012)
        self.height = 0.822 * size * rng.normal(1, 0.008)
        self.egg = rng.normal(0.1, 0.015)  # how much wider the back is than the front
        self.shift = (rng.normal(0, 0.004), rng.normal(0, 0.006))
        self.roll = rng.normal(0, 0.012)
        self.lift = rng.normal(0, 0.05)
        self.warp = (Waves(rng, 0.6), Waves(rng, 0.6))
        # the cortex
        self.folds = rng.uniform(14, 17)
        self.fold_depth = rng.uniform(0.12, 0.17)
        self.ribbon = rng.uniform(0.032, 0.042)
        self.atrophy = rng.uniform(-0.002, 0.01)
        self.meander = Waves(rng, 0.5)
        self.wrinkle = Waves(rng, 0.22)
        self.branches = Waves(rng, 0.25)
        # inside
        self.ventricle_growth = (growth - asymmetry, growth + asymmetry)
        self.periventricular_rim = rng.uniform(0, 1) ** 2  # strength of a darker rim of white matter
        # the scanner
        self.fluid = rng.uniform(24, 44)
        self.grey = rng.uniform(100, 130)
        self.white = rng.uniform(200, 225)
        self.bias = rng.uniform(0.02, 0.07)
        self.shading = Waves(rng, 1.6)


@lru_cache(maxsize=16)
def _anatomy(seed: int, subject: int) -> Anatomy:
    return Anatomy(seed, subject)


def _at(z: float, knots: _Knots) -> float:
    """Interpolate a quantity at height ``z`` (0 the lowest slice, 1 the highest)."""
    place = min(max(z, 0.0), 1.0) * (len(knots) - 1)
    below = min(int(place), len(knots) - 2)
    return knots[below] + (place - below) * (knots[below + 1] - knots[below])


@dataclass(frozen=True)
class _Part:
    """Rows and columns of the slice at height ``z``, which has ``points`` a side."""

    points: int
    z: float
    box: tuple[slice, slice]

    def crop(self, box: tuple[slice, slice]) -> _Part:
        """Return a part of this one."""
        rows, columns = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(self.box, box, strict=True))
        return _Part(self.points, self.z, (rows, columns))

    def average_blocks(self, field: _Field, factor: int) -> _Field:
        """Return the whole slice, averaged over blocks of ``factor`` by ``factor`` points; it is zero outside."""
        first = [side.start // factor for side in self.box]
        last = [-(-side.stop // factor) for side in self.box]
        inside = [
            slice(side.start - start * factor, side.stop - start * factor)
            for side, start in zip(self.box, first, strict=True)
        ]
        rows, columns = (end - start for start, end in zip(first, last, strict=True))
        blocks = np.zeros((rows * factor, columns * factor))
        blocks[inside[0], inside[1]] = field
        whole = np.zeros((self.points // factor, self.points // factor))
        # Sums over rows first: they are contiguous.
        sums = blocks.reshape(rows, factor, -1).sum(axis=1).reshape(rows, columns, factor).sum(axis=2)
        whole[first[0] : last[0], first[1] : last[1]] = sums / (factor * factor)
        return whole


def _length(u: _Field, v: _Field) -> _Field:
    squares = u * u
    squares += v * v
    return np.sqrt(squares, out=squares)


def _cover(inside: _Field, softness: float = EDGE_WIDTH) -> _Field:
    """Return how much of each point a shape covers, 0 to 1, from the depth inside it."""
    share = inside / softness
    share += 0.5
    return np.minimum(np.maximum(share, 0, out=share), 1, out=share)


def _tube(x: _Field, y: _Field, start: _Knots, end: _Knots) -> _Field:
    """Return the depth inside a straight tube between two (x, y, radius)."""
    dx, dy, dr = (b - a for a, b in zip(start, end, strict=True))
    u, v = x - start[0], y - start[1]
    square = dx * dx + dy * dy
    along = u * (dx / square) + v * (dy / square)
    along = np.minimum(np.maximum(along, 0, out=along), 1, out=along)
    u -= along * dx
    v -= along * dy
    depth = along * dr
    depth -= _length(u, v)
    depth += start[2]
    return depth


def _ellipse(x: _Field, y: _Field, centre: _Knots, radii: _Knots, tilt: float = 0.0) -> _Field:
    """Return the approximate depth inside an ellipse."""
    c, s = math.cos(tilt), math.sin(tilt)
    u, v = x - centre[0], y - centre[1]
    across = u * (c / radii[0]) + v * (s / radii[0])
    length = _length(across, v * (c / radii[1]) - u * (s / radii[1]))
    return (1 - length) * min(radii)


def _smooth_maximum(p: _Field, q: _Field, blend: float = 0.04) -> _Field:
    return 0.5 * (p + q + np.sqrt((p - q) ** 2 + blend * blend)) - 0.3 * blend


def _head_box(a: Anatomy, points: int, z: float) -> tuple[slice, slice]:
    """Return rows and columns that hold the whole head."""
    width, height = (1.05 * length for length in _head_size(a, z))
    width *= 1 + 1.05 * abs(a.egg)
    warp = WARP * math.sqrt(2 * len(a.warp[0].phase))  # all waves at their crests
    s = abs(math.sin(a.roll))
    sides = []
    for shift, length, other in ((a.shift[1], height, width), (a.shift[0], width, height)):
        half = length + s * other + (1 + s) * warp
        start, stop = ((1 + shift + sign * half) * points / 2 for sign in (-1, 1))
        sides.append(slice(max(0, math.floor(start)), min(points, math.ceil(stop))))
    return sides[0], sides[1]


def _head_coordinates(a: Anatomy, part: _Part) -> tuple[_Field, _Field]:
    """Return x to the right and y to the front of the head, for every point."""
    axis = _axis(part.points)
    u, v = axis[None, part.box[1]] - a.shift[0], axis[part.box[0], None] - a.shift[1]
    c, s = math.cos(a.roll), math.sin(a.roll)
    return c * u + s * v + WARP * a.warp[0](part), c * v - s * u + WARP * a.warp[1](part)


def _head_size(a: Anatomy, z: float) -> tuple[float, float]:
    return a.width * _at(z, (1, 1, 1, 0.99, 0.94)), a.height * _at(z, (1, 1, 0.99, 0.97, 0.94))


def _depth_below_outline(a: Anatomy, x: _Field, y: _Field, z: float) -> _Field:
    width, height = _head_size(a, z)
    v = y / height
    # Between temporal and frontal lobe, in the low slices.
    notch_depth = _at(z, (0.06, 0.04, 0, 0, 0))
    widths = 1 - a.egg * v
    if notch_depth:
        widths -= notch_depth * np.exp(-(((v - 0.45) / 0.18) ** 2))
    # A superellipse, wider at the back (egg); 1 on the outline.
    radius = (np.abs(x / (width * widths)) ** 2.15 + np.abs(v) ** 2.15) ** (1 / 2.15)
    return (1 - radius) * _length(x, y) / np.maximum(radius, 0.05)


def _distance_to_fissure(x: _Field, y: _Field, z: float) -> _Field:
    # A plane between the hemispheres, open in front and behind; the corpus callosum bridges its middle, until the
    # slices lie above it.
    front = np.maximum(_at(z, (0.32, 0.4, 0.45, 0.48, 0.5, 0.5, 0.5, 0.5, 0.47, 0.37, 0)) - y, 0)
    back = np.maximum(_at(z, (0.42, 0.42, 0.42, 0.42, 0.43, 0.44, 0.45, 0.46, 0.45, 0.36, 0)) + y, 0)
    return _length(x, np.minimum(front, back))


def _distance_to_sulci(a: Anatomy, x: _Field, y: _Field, part: _Part, depth: _Field, branches: _Field) -> _Field:
    """Return the distance to the nearest sulcus.

    A sulcus is where a wave along the rim of the hemisphere, bent and branched by random fields, changes its sign.

    Args:
        part: of the slice, which all fields cover.
        depth: of each point below the surface of its hemisphere.
        branches: a random field.
    """
    # Where along the rim of its hemisphere a point lies, front (0) to back (pi): the angle of elliptic coordinates,
    # whose lines meet the rim at right angles and do not converge inside.
    width, height = _head_size(a, part.z)
    focus = 0.62 * math.sqrt(height * height - width * width / 4)
    aside = (np.abs(x) - width / 2) ** 2 + 0.0015
    nearer_front = np.sqrt((y + focus) ** 2 + aside) - np.sqrt((y - focus) ** 2 + aside)
    rim = np.arccos(np.clip(nearer_front / (2 * focus), -1, 1))

    meander, wrinkle = a.meander(part), a.wrinkle(part)
    wave = np.cos(a.folds * rim + 1.5 * meander + 0.6 * wrinkle) + 0.7 * branches
    # A first-order distance to the zeros of the wave; the constant keeps it finite where the wave is flat.
    distance = np.abs(wave) / np.sqrt(_squared_slope(wave, 2 / part.points) + 4)

    # Each sulcus reaches in to a different depth, and is widest at the surface.
    reach = a.fold_depth * (1 + 0.4 * np.sin(7 * rim + 1.5 * meander))
    gaping, tapering = 0.016 * np.exp(depth / -0.035), 0.05 * depth
    return _length(distance, np.maximum(depth - reach, 0)) + tapering - gaping


def _squared_slope(field: _Field, step: float) -> _Field:
    """Return the squared gradient by central differences; at the edges it is zero."""
    squares = np.zeros_like(field)
    squares[1:-1] = ((field[2:] - field[:-2]) / (2 * step)) ** 2
    squares[:, 1:-1] += ((field[:, 2:] - field[:, :-2]) / (2 * step)) ** 2
    return squares


def _distance_to_insula(x: _Field, y: _Field, z: float, bend: _Field) -> _Field:
    # One more sulcus, long and set deep.
    side = np.abs(x)
    floor = _tube(side + bend, y, (0.47, 0.0, 0.0), (0.42, 0.33, 0.01))
    mouth = _tube(side, y + bend, (0.46, 0.25, 0.0), (0.75, 0.4, INSULA_RADIUS))
    return _at(z, INSULA) - np.maximum(floor, mouth)


def _white_depth(a: Anatomy) -> float:
    """Return the distance to the surface of the cortex from which on everything is white matter."""
    return a.ribbon + 0.08 + a.atrophy


def _cortex(a: Anatomy, pial: _Field) -> _Field:
    """Return brightness by the distance to the surface of the cortex."""
    # Knots of a curve from fluid over a ribbon of grey to white matter.
    distance = (-0.01, 0, a.ribbon / 2, a.ribbon, a.ribbon + 0.025, a.ribbon + 0.08)
    brightness = (a.fluid, a.fluid + 15, a.grey - 10, a.grey + 30, 0.96 * a.white, a.white)
    return np.interp(pial - a.atrophy, distance, brightness)


def _lateral_ventricles(a: Anatomy, side: _Field, right: _Field, y: _Field, z: float, ripple: _Field) -> _Field:
    """Return the depth inside the lateral ventricles, which a thin septum separates.

    Args:
        side: distance of each point from the midline.
        right: whether it lies on the right.
    """
    trigone, body, horn = (tuple(_at(z, knots) for knots in station) for station in (TRIGONE, BODY, FRONTAL_HORN))
    # From the trigone over the body to the frontal horn; higher up both sides join into an X.
    tube = _smooth_maximum(_tube(side, y, trigone, body), _tube(side, y, body, horn))
    shrinkage = _at(z, (0, 0, 0, 0, 0, -0.07))
    tube += np.array(a.ventricle_growth)[right.view(np.uint8)] + shrinkage
    return np.minimum(tube + ripple, side - 0.006)


def _paint_deep_structures(image: _Field, a: Anatomy, x: _Field, y: _Field, z: float, ripple: _Field) -> None:
    middle = _bounding_box((np.abs(x) < DEEP_HALF_WIDTH) & (np.abs(y) < DEEP_HALF_HEIGHT))
    whole, image = image, image[middle].copy()
    side, right, y, ripple = np.abs(x[middle]), x[middle] >= 0, y[middle].copy(), ripple[middle].copy()

    def paint(inside: _Field, brightness: float, strength: float = 1.0, softness: float = EDGE_WIDTH) -> None:
        change = _cover(inside, softness)
        change *= strength
        change *= brightness - image
        np.add(image, change, out=image)

    nucleus = 0.55 * a.white + 0.45 * a.grey
    # Thalamus, lentiform nucleus, caudate nucleus, each present over a different range of slices.
    bent = side + 3 * ripple
    nuclei = (
        ((0.12, -0.06), (0.1, 0.19), 0.3, 0, (1, 1, 1, 0, 0), 0.04),
        ((0.29, 0.1), (0.08, 0.2), -0.2, 8, (1, 1, 0.8, 0, 0), 0.06),
        ((0.15, 0.3), (0.06, 0.13), -0.2, 12, (0.7, 1, 1, 0.9, 0), 0.04),
    )
    for centre, radii, tilt, darker, strengths, softness in nuclei:
        if strength := _at(z, strengths):
            paint(_ellipse(bent, y, centre, radii, tilt), nucleus - darker, strength, softness)

    # The lateral ventricles with a darker rim; the third ventricle and the cistern behind it.
    lateral = _lateral_ventricles(a, side, right, y, z, ripple)
    paint(lateral + 0.045, nucleus, a.periventricular_rim, 0.07)
    paint(lateral, a.fluid, _at(z, (*[1] * 10, 0.2)))
    paint(_tube(side, y, (0, -0.15, 0.02), (0, 0.1, 0.025)) - _at(z, (0, 0, 0.05, 0.06, 0.06)), a.fluid)
    paint(_ellipse(side, y, (0, -0.3), (0.11, 0.07)) - _at(z, (0, 0.04, 0.08, 0.08, 0.08)), a.fluid)
    whole[middle] = image


def _bounding_box(mask: _Field) -> tuple[slice, slice]:
    """Return the rows and columns that hold the mask, with one point around it where there is room."""
    places = (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
    rows, columns = (slice(max(int(at[0]) - 1, 0), int(at[-1]) + 2) for at in places)
    return rows, columns


def phantom(subject: int, slice_: int, resolution: int, *, seed: int = 0) -> ndarray:
    """Draw one slice of one invented subject: uint8 (resolution, resolution).

    Args:
        subject: any number from 0; each is a different brain.
        slice_: 0 (thalami, above the temporal lobes) to 31 (above the ventricles).
        resolution: pixels per side.
        seed: selects another endless set of subjects.

    Raises:
        ValueError: there is no such slice.
    """
    if not 0 <= slice_ < SLICES_PER_SUBJECT:
        raise ValueError(f"slice {slice_}: a phantom has slices 0 to {SLICES_PER_SUBJECT - 1}")
    a = _anatomy(seed, subject)
    # Small images are painted larger and averaged, so that all resolutions show the same anatomy.
    factor = -(-MIN_POINTS // resolution)
    points = resolution * factor
    z = slice_ / (SLICES_PER_SUBJECT - 1) + a.lift

    around = _Part(points, z, _head_box(a, points, z))
    x, y = _head_coordinates(a, around)
    below = _depth_below_outline(a, x, y, z)
    # Only the part with the head is painted: the rest is 0, whatever is drawn there.
    box = _bounding_box(below > -EDGE_WIDTH)
    part = around.crop(box)
    # Copies: numpy is much faster where a field has no gaps between its rows.
    x, y, below, branches = x[box].copy(), y[box].copy(), below[box].copy(), a.branches(part)
    depth = np.minimum(below + 0.028, _distance_to_fissure(x, y, z))
    sulci = _distance_to_sulci(a, x, y, part, depth, branches)
    pial = np.minimum(depth, sulci, out=sulci)
    if _at(z, INSULA) - INSULA_RADIUS < _white_depth(a):  # above it there is white matter, whatever its distance
        np.minimum(pial, _distance_to_insula(x, y, z, 0.02 * branches), out=pial)
    image = _cortex(a, pial)
    _paint_deep_structures(image, a, x, y, z, 0.005 * branches)
    image *= 1 + a.bias * a.shading(part)

    # The scanner: a smooth shading above, noise inside the head here.
    head = _cover(below)
    image, head = (part.average_blocks(field, factor) for field in (image * head, head))
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*a.key, slice_, resolution))))
    image += head * rng.standard_normal(image.shape) * (NOISE_LEVELS_AT_256 * resolution / 256)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def phantom_subject(subject: int, resolution: int, *, seed: int = 0) -> ndarray:
    """Draw all slices of a subject, lowest first: uint8 (32, resolution, resolution)."""
    return np.stack([phantom(subject, slice_, resolution, seed=seed) for slice_ in range(SLICES_PER_SUBJECT)])
