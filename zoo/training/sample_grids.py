"""Pictures of a run: sample grids, training curves and an animation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zoo.core.errors import ZooError
from zoo.data.pixel_range import to_uint8
from zoo.losses.adversarial import LOSSES
from zoo.models import sampling
from zoo.report import image_grid, plots
from zoo.runtime import rng
from zoo.training.run_folder import Run
from zoo.training.trainer import Trainer

GRID_COUNTS = ((64, 64), (128, 25))  # largest resolution in pixels, images in a grid
LARGE_GRID_COUNT = 16


class SampleGrids:
    """Grids of the averaged generator, from the same latents every time."""

    def __init__(self, trainer: Trainer, run: Run) -> None:
        self.trainer, self.run = trainer, run
        self.latest = torch.zeros(0)  # images of the grid that was saved last, uint8 (N, C, R, R)
        resolution = trainer.recipe.data.resolution
        self.count = next((count for size, count in GRID_COUNTS if resolution <= size), LARGE_GRID_COUNT)

    def save_first(self) -> None:
        """Save a grid of real images and one of the untrained generator."""
        data = self.trainer.data
        order = rng.ImageOrder(rng.derive_seed(self._seed, "reals"), len(data.train))
        positions = data.train[order.take(0, min(self.count, len(data.train)))]
        image_grid.save_png(
            image_grid.make_grid(data.take(positions)), self.run.samples / "reals.png", caption="real images"
        )
        fakes = self.latest = self.generate(self.count)
        path = self.run.samples / "fakes_init.png"
        image_grid.save_png(image_grid.make_grid(fakes), path, caption=self._caption("untrained"))

    def generate(self, count: int) -> Tensor:
        """uint8 (count, C, R, R): the same images for the same weights; a smaller count gives the first of them."""
        z = rng.fixed_latents(self._seed, count, self.trainer.G.latent.dim)
        averaged, speed = self.trainer.averaged(), self.trainer.speed
        return to_uint8(sampling.generate_images(averaged, z, seed=self._seed, speed=speed))

    def save(self, fakes: Tensor) -> None:
        """Save a grid of the first of ``fakes`` under the images seen so far."""
        nimg = self.trainer.nimg
        self.latest = fakes[: self.count]
        grid = image_grid.make_grid(self.latest)
        path = self.run.samples / f"fakes-{nimg / 1000:010.3f}.png"
        caption = self._caption(f"{nimg / 1000:.1f} kimg")
        image_grid.save_png(grid, path, {"nimg": nimg, "seed": self._seed}, caption=caption)

    def draw_curves(self, real_values: Mapping[str, float | None]) -> None:
        """Draw losses, accuracies and SSIM from the log; ``real_values``: SSIM values of real images."""
        rows, name = self.run.rows(), self.run.name
        equilibrium = LOSSES[self.trainer.recipe.loss.name].equilibrium
        plots.plot_losses(rows, self.run.path / "losses.png", name, equilibrium)
        plots.plot_accuracy(rows, self.run.path / "d_accuracy.png", name)
        plots.plot_ssim(rows, self.run.path / "ssim.png", name, real_values)

    def draw_animation(self, warn: Callable[[str], None]) -> None:
        """Make training.gif of the grids that were saved; ``warn`` gets a line if one cannot be read."""
        first, grids = self.run.samples / "fakes_init.png", self.run.grids()
        frames = [first, *grids] if first.is_file() else grids
        lengths = ["untrained"] * (len(frames) - len(grids))
        lengths += [f"{float(path.stem.removeprefix('fakes-')):.1f} kimg" for path in grids]
        captions = [self._caption(length) for length in lengths]
        try:
            image_grid.make_gif(frames, self.run.path / "training.gif", captions=captions)
        except ZooError as error:  # no reason to call the run failed
            warn(str(error))

    def _caption(self, length: str) -> str:
        return f"{self.trainer.recipe.name}, {length}, seed {self._seed}"

    @property
    def _seed(self) -> int:
        return self.trainer.recipe.train.seed
