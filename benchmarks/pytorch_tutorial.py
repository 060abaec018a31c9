"""Train PyTorch's DCGAN tutorial as it is written, on the same images and for the same time as a recipe.

    python benchmarks/pytorch_tutorial.py --data PATH --out DIR [--kimg N] [--samples 2000]

Radford et al. 2016 at 64 pixels, 64 channels wide: normal weights of standard deviation 0.02, batch 64, Adam 2e-4
(0.5, 0.999), binary cross-entropy, fp32, eager, a DataLoader with two workers, ``.item()`` every step, no average of
weights. Generated images come in batches of 64 from the network in training mode, as in the tutorial. DIR receives
``fakes.npz``, ``info.json`` and ``state.pt``, from which the same command resumes; SIGTERM writes all three and ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import make_parser
from torch import nn
from train_speed import TrainingImages

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.files import atomic_file
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.pixel_range import to_uint8
from zoo.models.summary import count_parameters
from zoo.runtime import rng

RESOLUTION, LATENT_DIM, BATCH = 64, 100, 64
SAVE_SECONDS = 60.0  # between states


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kimg", type=float, default=1000.0)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--width", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: signals.append(signum))
    try:
        data = load_dataset(options.data, DataConfig(resolution=RESOLUTION))
        tutorial = Tutorial(data, options.out, width=options.width)
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    last_save = time.monotonic()
    while tutorial.nimg < 1000 * options.kimg and not signals:
        tutorial.step()
        if time.monotonic() - last_save > SAVE_SECONDS:
            tutorial.save()
            last_save = time.monotonic()
    tutorial.save()
    tutorial.write_samples(options.samples)
    sys.exit(143 if signals else 0)


class Tutorial:
    """Networks, optimizers and training loop; resumes from the state in ``folder`` if there is one."""

    def __init__(self, data: Dataset, folder: Path, *, width: int = 64, workers: int = 2) -> None:
        torch.manual_seed(0)
        self.folder, self.nimg = folder, 0
        self.G, self.D = build_generator(width), build_discriminator(width)
        for network in (self.G, self.D):
            network.apply(initialise)
        self.opt_g, self.opt_d = (
            torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in (self.G, self.D)
        )
        self.criterion = nn.BCELoss()
        self.loader = torch.utils.data.DataLoader(
            TrainingImages(data),
            BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self._load(torch.load(folder / "state.pt", weights_only=True))
        self.batches = iter(self.loader)

    def step(self) -> None:
        """Update D on real and generated images, then G, on one batch."""
        try:
            real = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            real = next(self.batches)
        ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
        self.D.zero_grad()
        loss_real = self.criterion(self.D(real).view(-1), ones)
        loss_real.backward()
        fake = self.G(torch.randn(len(real), LATENT_DIM, 1, 1))
        loss_fake = self.criterion(self.D(fake.detach()).view(-1), zeros)
        loss_fake.backward()
        self.opt_d.step()
        self.G.zero_grad()
        loss_g = self.criterion(self.D(fake).view(-1), ones)
        loss_g.backward()
        self.opt_g.step()
        # The tutorial reads its losses in every step, which makes a GPU wait.
        self.losses = [(loss_real + loss_fake).item(), loss_g.item()]
        self.nimg += len(real)

    def save(self) -> None:
        """Write ``state.pt`` and ``info.json``."""
        state = {name: part.state_dict() for name, part in self._stateful_parts.items()}
        with atomic_file(self.folder / "state.pt") as file:
            torch.save({**state, "nimg": self.nimg, "rng": torch.get_rng_state()}, file)
        info = {"nimg": self.nimg, "params_g": count_parameters(self.G), "params_d": count_parameters(self.D)}
        with atomic_file(self.folder / "info.json", "w") as file:
            json.dump(info, file)

    @torch.no_grad()
    def write_samples(self, num_samples: int) -> None:
        """Write ``fakes.npz``: uint8 images (num_samples, 1, 64, 64), from the latents that ``zoo bench`` uses."""
        whole_batches = -(-num_samples // BATCH) * BATCH
        z = rng.fixed_latents(0, whole_batches, LATENT_DIM)[:, :, None, None]
        images = torch.cat([to_uint8(self.G(batch)) for batch in z.split(BATCH)])[:num_samples]
        with atomic_file(self.folder / "fakes.npz") as file:
            np.savez_compressed(file, images=images.numpy())

    @property
    def _stateful_parts(self) -> dict[str, Any]:
        return {"G": self.G, "D": self.D, "opt_g": self.opt_g, "opt_d": self.opt_d}

    def _load(self, state: dict[str, Any]) -> None:
        for name, part in self._stateful_parts.items():
            part.load_state_dict(state[name])
        self.nimg = state["nimg"]
        torch.set_rng_state(state["rng"])


def build_generator(width: int) -> nn.Sequential:
    """Return the generator: latents (N, 100, 1, 1) to images (N, 1, 64, 64) in [-1, 1]."""
    layers: list[nn.Module] = []
    sizes = [LATENT_DIM, 8 * width, 4 * width, 2 * width, width]
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False), nn.Tanh())


def build_discriminator(width: int) -> nn.Sequential:
    """Return the discriminator: images (N, 1, 64, 64) to probabilities (N, 1, 1, 1)."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for factor in (1, 2, 4):
        outputs = 2 * factor * width
        layers += [nn.Conv2d(factor * width, outputs, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Sigmoid())


def initialise(module: nn.Module) -> None:
    """Draw a layer's weights as DCGAN does (Radford et al. 2016)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


if __name__ == "__main__":
    main()
