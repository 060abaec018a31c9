"""PyTorch's DCGAN tutorial as it is written, on the images and for the time that ours gets.

    python benchmarks/tutorial.py --data PATH --out DIR [--kimg N] [--samples 2000]

Radford et al. 2016 at 64 pixels, 64 channels wide: normal weights of deviation 0.02, batch 64, Adam 2e-4 (0.5, 0.999),
binary cross-entropy, fp32, eager, a DataLoader with two workers, ``.item()`` every step, no average of weights; fakes
are made in batches of 64 by the network as it stands, in training mode, as the tutorial makes its own. Images come from
the same cache as ours, so that both see the same pixels. In DIR: ``fakes.npz``, ``info.json``, and ``state.pt``, from
which the same command goes on. SIGTERM ends it with all three written.
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
from torch import nn
from train_speed import Images

from zoo.core.config import DataConfig
from zoo.core.errors import ZooError
from zoo.core.files import atomic_file
from zoo.data.dataset import Dataset, load_dataset
from zoo.data.pixel_range import to_uint8
from zoo.models.summary import count_parameters
from zoo.runtime import rng

LATENT, BATCH = 100, 64
SAVE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kimg", type=float, default=1000.0)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--width", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: received.append(signum))
    try:
        images = load_dataset(options.data, DataConfig(resolution=64))
        tutorial = Tutorial(images, options.out, width=options.width)
    except ZooError as error:
        parser.exit(2, f"{error}\n")
    saved = time.monotonic()
    while tutorial.nimg < 1000 * options.kimg and not received:
        tutorial.step()
        if time.monotonic() - saved > SAVE_S:
            tutorial.save()
            saved = time.monotonic()
    tutorial.save()
    tutorial.write_fakes(options.samples)
    sys.exit(143 if received else 0)


class Tutorial:
    """Networks, optimisers and the loop; goes on from what ``folder`` holds."""

    def __init__(self, images: Dataset, folder: Path, *, width: int = 64, workers: int = 2) -> None:
        torch.manual_seed(0)
        self.folder, self.nimg = folder, 0
        self.G, self.D = generator(width), discriminator(width)
        for network in (self.G, self.D):
            network.apply(initialise)
        self.opt_g, self.opt_d = (
            torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in (self.G, self.D)
        )
        self.criterion = nn.BCELoss()
        self.loader = torch.utils.data.DataLoader(
            Images(images), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self._load(torch.load(folder / "state.pt", weights_only=True))
        self.batches = iter(self.loader)

    def step(self) -> None:
        try:
            real = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            real = next(self.batches)
        ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
        self.D.zero_grad()
        loss_real = self.criterion(self.D(real).view(-1), ones)
        loss_real.backward()
        fake = self.G(torch.randn(len(real), LATENT, 1, 1))
        loss_fake = self.criterion(self.D(fake.detach()).view(-1), zeros)
        loss_fake.backward()
        self.opt_d.step()
        self.G.zero_grad()
        loss_g = self.criterion(self.D(fake).view(-1), ones)
        loss_g.backward()
        self.opt_g.step()
        self.losses = [(loss_real + loss_fake).item(), loss_g.item()]
        self.nimg += len(real)

    def save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        with atomic_file(self.folder / "state.pt") as file:
            torch.save({**state, "nimg": self.nimg, "rng": torch.get_rng_state()}, file)
        with atomic_file(self.folder / "info.json", "w") as file:
            json.dump(
                {"nimg": self.nimg, "params_g": count_parameters(self.G), "params_d": count_parameters(self.D)}, file
            )

    @torch.no_grad()
    def write_fakes(self, n: int) -> None:
        """``fakes.npz``: uint8 images (n, 1, 64, 64), from the latents that a bench uses."""
        z = rng.fixed_latents(0, -(-n // BATCH) * BATCH, LATENT)[:, :, None, None]
        made = torch.cat([to_uint8(self.G(part)) for part in z.split(BATCH)])[:n]
        with atomic_file(self.folder / "fakes.npz") as file:
            np.savez_compressed(file, images=made.numpy())

    @property
    def _parts(self) -> dict[str, Any]:
        return {"G": self.G, "D": self.D, "opt_g": self.opt_g, "opt_d": self.opt_d}

    def _load(self, state: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.nimg = state["nimg"]
        torch.set_rng_state(state["rng"])


def generator(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    sizes = [LATENT, 8 * width, 4 * width, 2 * width, width]
    for index, (before, after) in enumerate(itertools.pairwise(sizes)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False), nn.Tanh())


def discriminator(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for factor in (1, 2, 4):
        after = 2 * factor * width
        layers += [nn.Conv2d(factor * width, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Sigmoid())


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


if __name__ == "__main__":
    main()
