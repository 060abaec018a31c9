"""What a run shows of its averaged generator on the way: grids, likeness to real images, curves, an animation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo import sampling, seeds
from zoo.metrics import ssim
from zoo.report import pictures, plots
from zoo.run import Run
from zoo.trainer import Trainer


class Snapshots:
    """Pictures and SSIM of the averaged generator, from the same latents every time."""

    def __init__(self, trainer: Trainer, run: Run) -> None:
        self.trainer, self.run = trainer, run
        seed, resolution = trainer.recipe.train.seed, trainer.recipe.data.resolution
        small = resolution <= 64
        self.count = 64 if small else 25 if resolution <= 128 else 16
        self.z = seeds.fixed_latents(seed, self.count, trainer.G.latent.dim)
        order = seeds.Order(seeds.derive(seed, "reals"), len(trainer.data.train))
        some = order.take(0, min(128 if small else 64, len(trainer.data.train)))
        self.reals = trainer.data.take(trainer.data.train[some])
        self.judged = 32 if small else 16
        self._reference: dict[str, Any] | None = None

    def first(self) -> None:
        """Real images, and what the untrained generator makes."""
        pictures.save_png(pictures.grid(self.reals[: self.count]), self.run.samples / "reals.png")
        pictures.save_png(pictures.grid(self._fakes()), self.run.samples / "fakes_init.png")

    def take(self) -> dict[str, Any]:
        """Save a grid; return the SSIM figures for the log."""
        fakes = self._fakes()
        nimg = self.trainer.nimg
        pictures.save_png(
            pictures.grid(fakes),
            self.run.samples / f"fakes-{nimg / 1000:010.3f}.png",
            {"nimg": nimg, "seed": self._seed},
        )
        judged = fakes[: self.judged]
        return {"ssim_nearest": _nearest(judged, self.reals), "ssim_pairwise": _pairwise(judged), **self.reference()}

    def reference(self) -> dict[str, Any]:
        """The same figures of real images: unseen ones against the training images, and training images among
        themselves.
        """
        if self._reference is None:
            unseen = self.trainer.data.unseen[: self.judged]
            judged = self.trainer.data.take(unseen) if len(unseen) else self.reals[:0]
            self._reference = {
                "ssim_nearest_unseen": _nearest(judged, self.reals),
                "ssim_pairwise_real": _pairwise(self.reals[: self.judged]),
                "ssim_definition": (
                    f"{ssim.DEFINITION}; {self.judged} EMA fakes, nearest of {len(self.reals)} training images"
                ),
            }
        return self._reference

    def draw_curves(self) -> None:
        """Losses, accuracies and SSIM, from what has been logged."""
        rows, name = self.run.rows(), self.run.name
        plots.plot_losses(rows, self.run.path / "losses.png", name)
        plots.plot_accuracy(rows, self.run.path / "d_accuracy.png", name)
        reference = self.reference()
        reals = {"ssim_nearest": reference["ssim_nearest_unseen"], "ssim_pairwise": reference["ssim_pairwise_real"]}
        plots.plot_ssim(rows, self.run.path / "ssim.png", name, reals)

    def draw_animation(self) -> None:
        """training.gif, from the grids that have been saved."""
        frames = [self.run.samples / "fakes_init.png", *sorted(self.run.samples.glob("fakes-*.png"))]
        captions = ["untrained", *(f"{float(frame.stem.removeprefix('fakes-')):.1f} kimg" for frame in frames[1:])]
        pictures.make_gif(frames, self.run.path / "training.gif", captions=captions)

    @property
    def _seed(self) -> int:
        return self.trainer.recipe.train.seed

    def _fakes(self) -> Tensor:
        return pictures.to_uint8(sampling.images(self.trainer.averaged(), self.z, seed=self._seed))


def _nearest(images: Tensor, reals: Tensor) -> float | None:
    if not len(images) or not len(reals):
        return None
    return ssim.nearest_ssim(images, reals, 255)[0].mean().item()


def _pairwise(images: Tensor) -> float | None:
    return ssim.pairwise_ssim(images, 255).mean().item() if len(images) > 1 else None
