"""Make weights of `upscale` recipes without a GAN training of their own: another body, or a smaller step.

    python benchmarks/upscale_weights.py body runs/upscale-256-000 --body brain-64 --out a.safetensors
    python benchmarks/upscale_weights.py distil a.safetensors --recipe upscale-128 --minutes 16 --out b.safetensors

`body`: the step sees small images alone, so any generator of FastGAN's shape can make them. `distil`: a step that
enlarges less learns to make the averages of the larger images, which the larger step determines (after Hinton et al.
2015, arXiv:1503.02531). The weights `brain-256` and `brain-128` were made in these ways, from bodies that are not
packaged (their model cards).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from common import make_parser
from torch import Tensor

from zoo.core.config import EmaConfig
from zoo.core.errors import ZooError
from zoo.hub.load import load_generator
from zoo.models.layers import clip_output
from zoo.models.upscale import UpscaleGenerator
from zoo.recipes import build_generator, load_recipe
from zoo.training.ema import Ema
from zoo.training.generator_file import save_generator

BATCH = 8
RATE, WARMUP_IMAGES, FALL = 1e-3, 400, 0.7  # Adam's rate; it falls with the rest of the time to this power
SQUARE_WEIGHT = 4.0  # of squared differences, next to absolute ones
AVERAGE = EmaConfig(halflife_kimg=1.1)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("kind", choices=("body", "distil"))
    parser.add_argument("weights", help="of an `upscale` generator: a file, a run, or a name")
    parser.add_argument("--body", default="brain-64", help="of 64 pixels: a file, a run, or a name (default: brain-64)")
    parser.add_argument("--recipe", default="upscale-128", help="of the smaller step (default: upscale-128)")
    parser.add_argument("--minutes", type=float, default=16.0, help="length of the training (default: 16)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    try:
        (replace_body if options.kind == "body" else distil)(options)
    except ZooError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def load_upscale(weights: str) -> tuple[UpscaleGenerator, int, str]:
    """Return the generator, the images it has seen, and its recipe's name.

    Raises:
        ZooError: it is no `upscale` generator.
    """
    loaded = load_generator(weights, precision="fp32")
    if not isinstance(loaded.generator, UpscaleGenerator):
        raise ZooError(f"{weights}: is of the architecture {loaded.recipe.generator.arch}, not upscale")
    return loaded.generator, loaded.nimg, loaded.recipe.name


def replace_body(options: argparse.Namespace) -> None:
    """Write the weights with another body."""
    generator, nimg, name = load_upscale(options.weights)
    body = load_generator(options.body, precision="fp32").generator.body
    try:
        generator.body.load_state_dict(body.state_dict())
    except RuntimeError as error:
        raise ZooError(f"--body {options.body}: has another shape ({str(error).splitlines()[-1].strip()})") from None
    recipe = load_recipe(name, [f"train.init_from={options.body}"])
    save_generator(options.out, generator, recipe=recipe, nimg=nimg, dtype=torch.float16)


def distil(options: argparse.Namespace) -> None:
    """Train a smaller step on averages of the larger images, and write it."""
    torch.manual_seed(0)
    teacher, _, _ = load_upscale(options.weights)
    recipe = load_recipe(options.recipe, [f"train.init_from={options.body}"])
    student = build_generator(recipe).eval()
    shapes = {name: tensor.shape for name, tensor in student.state_dict().items()}
    shared = {name: x for name, x in teacher.state_dict().items() if shapes.get(name) == x.shape}
    student.load_state_dict(student.state_dict() | shared)
    ema, nimg = Ema(student, AVERAGE), 0
    for nimg, loss in train_step(teacher, student, ema, seconds=60 * options.minutes):
        if nimg % (100 * BATCH) == 0:
            print(f"{nimg} images: mean absolute difference {loss:.4f} of a range of 2", flush=True)
    save_generator(options.out, ema.module, recipe=recipe, nimg=nimg, dtype=torch.float16)


def train_step(
    teacher: UpscaleGenerator, student: UpscaleGenerator, ema: Ema, *, seconds: float
) -> Iterator[tuple[int, float]]:
    """Train the student's step for so long, and keep its average; yield images and difference."""
    step, times = student.enlarger, teacher.factor // student.factor
    optimizer = torch.optim.Adam(step.parameters(), betas=(0.9, 0.99))
    nimg, start = 0, time.monotonic()
    while (done := (time.monotonic() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, nimg / WARMUP_IMAGES) * (1 - done) ** FALL
        with torch.no_grad():
            small = clip_output(teacher.body(torch.randn(BATCH, teacher.latent.dim)))
            target = F.avg_pool2d(clip_output(teacher.enlarge(small)), times)
        images = step(small)
        loss = _difference(images, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        nimg += BATCH
        ema.update(student, nimg, BATCH)
        yield nimg, float((images.detach().clamp(-1, 1) - target).abs().mean())


def _difference(images: Tensor, target: Tensor) -> Tensor:
    # Beyond the range images are clipped, and only squared differences lead back.
    return F.l1_loss(images.clamp(-1.05, 1.05), target) + SQUARE_WEIGHT * F.mse_loss(images, target)


if __name__ == "__main__":
    sys.exit(main())
