"""What metrics ask of a trained generator, and of the discriminator of its run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from zoo.core.progress import Reporter
from zoo.data.pixel_range import from_uint8
from zoo.hub.create_discriminator import load_discriminator
from zoo.hub.load import LoadedGenerator
from zoo.hub.projection import project_images
from zoo.metrics.comparison import Networks
from zoo.models.base import Discriminator
from zoo.training import checkpoint
from zoo.training.run_folder import Run

PROJECTION_STEPS = 100  # for a benchmark, of many generators
DISCRIMINATOR_BATCH = 64  # images


def open_networks(generator: LoadedGenerator, run: Run | None, reporter: Reporter) -> Networks:
    """Return what metrics may ask of a generator and of its run's discriminator, which is loaded when it is asked.

    Args:
        generator: of any origin.
        run: that trained it; None: unknown.
        reporter: shows progress.
    """

    def reconstruct(images: np.ndarray) -> np.ndarray:
        latents, labels = project_images(generator, torch.from_numpy(images), steps=PROJECTION_STEPS, reporter=reporter)
        return generator.decode(latents, label=labels).numpy()

    if run is None or checkpoint.newest_checkpoint(run.state) is None:
        return Networks(reconstruct=reconstruct, missing="no run with a checkpoint, which has the discriminator")
    judge = _Judge(run, next(generator.parameters()).device, reporter)
    return Networks(reconstruct=reconstruct, discriminate=judge.logits)


@dataclass(frozen=True)
class _Judge:
    """The discriminator of a run."""

    run: Run
    device: torch.device
    reporter: Reporter

    @cached_property
    def network(self) -> Discriminator:
        return load_discriminator(self.run, self.reporter)[0].to(self.device)

    @torch.no_grad()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the mean logit (N,) of each uint8 image; of several classes that of the likeliest.

        Raises:
            ZooError: as :func:`load_discriminator`.
        """
        D = self.network
        packing, rows = getattr(D, "packing", 1), []
        self.reporter.start("discriminating", len(images))
        try:
            for part in torch.from_numpy(images).split(DISCRIMINATOR_BATCH):
                # A pack shows the same image several times, so that it has one logit.
                x = from_uint8(part).to(self.device).repeat_interleave(packing, dim=0)
                classes: list[torch.Tensor | None] = [
                    torch.full((len(x),), k, device=self.device) for k in range(D.image.classes)
                ]
                logits = [D(x, label).reshape(len(part), -1).mean(dim=1) for label in classes or [None]]
                rows.append(torch.stack(logits).amax(dim=0).float().cpu())
                self.reporter.advance(len(part))
        finally:
            self.reporter.stop()
        return torch.cat(rows).numpy()
