"""What a run shows of its averaged generator on the way: grids, curves, an animation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from zoo.data.pixel_range import to_uint8
from zoo.models import sampling
from zoo.report import image_grid, plots
from zoo.runtime import rng
from zoo.training.run_folder import Run
from zoo.training.trainer import Trainer


class SampleGrids:
    """Pictures of the averaged generator, from the same latents every time."""

    def __init__(self, trainer: Trainer, run: Run) -> None:
        self.trainer, self.run = trainer, run
        resolution = trainer.recipe.data.resolution
        self.count = 64 if resolution <= 64 else 25 if resolution <= 128 else 16

    def first(self) -> None:
        """Real images, and what the untrained generator makes."""
        data = self.trainer.data
        order = rng.ImageOrder(rng.derive_seed(self._seed, "reals"), len(data.train))
        some = data.train[order.take(0, min(self.count, len(data.train)))]
        image_grid.save_png(image_grid.make_grid(data.take(some)), self.run.samples / "reals.png")
        image_grid.save_png(image_grid.make_grid(self.fakes(self.count)), self.run.samples / "fakes_init.png")

    def fakes(self, count: int) -> Tensor:
        """uint8 (count, C, R, R): the same images for the same weights, and the first of them for a smaller count."""
        z = rng.fixed_latents(self._seed, count, self.trainer.G.latent.dim)
        return to_uint8(sampling.generate_images(self.trainer.averaged(), z, seed=self._seed, speed=self.trainer.speed))

    def save(self, fakes: Tensor) -> None:
        """A grid of the first of ``fakes``."""
        nimg = self.trainer.nimg
        image_grid.save_png(
            image_grid.make_grid(fakes[: self.count]),
            self.run.samples / f"fakes-{nimg / 1000:010.3f}.png",
            {"nimg": nimg, "seed": self._seed},
        )

    def draw_curves(self, reals: Mapping[str, float | None]) -> None:
        """Losses, accuracies and SSIM, from what has been logged; ``reals``: the SSIM figures of real images."""
        rows, name = self.run.rows(), self.run.name
        plots.plot_losses(rows, self.run.path / "losses.png", name)
        plots.plot_accuracy(rows, self.run.path / "d_accuracy.png", name)
        plots.plot_ssim(rows, self.run.path / "ssim.png", name, reals)

    def draw_animation(self) -> None:
        """training.gif, from the grids that have been saved."""
        frames = [self.run.samples / "fakes_init.png", *sorted(self.run.samples.glob("fakes-*.png"))]
        captions = ["untrained", *(f"{float(frame.stem.removeprefix('fakes-')):.1f} kimg" for frame in frames[1:])]
        image_grid.make_gif(frames, self.run.path / "training.gif", captions=captions)

    @property
    def _seed(self) -> int:
        return self.trainer.recipe.train.seed
