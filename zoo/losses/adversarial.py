"""Adversarial losses: pure functions of logits, positive meaning "real".

Every loss is the mean over all logits, in fp32 (fp64 for fp64 logits). Targets are the papers'; sums over real and fake
are not halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from zoo.core.registry import Registry
from zoo.runtime.precision import upcast


@dataclass(frozen=True, kw_only=True)
class AdversarialLoss:
    """The losses of D and G.

    Attributes:
        discriminator: D's loss of ``(real_logits, fake_logits, label_smoothing)``.
        generator: G's loss of ``(real_logits, fake_logits)``; ``real_logits`` is None unless ``needs_real``.
        needs_real: G's loss compares with real logits, so that they are computed in its phase too.
        smooths: D's loss has labels to smooth.
        zero: the sign of a logit says real or fake; otherwise only differences have a meaning.
        equilibrium: losses of D and G where D can only guess; None: unknown.
    """

    discriminator: Callable[[Tensor, Tensor, float], Tensor]
    generator: Callable[[Tensor | None, Tensor], Tensor]
    needs_real: bool = False
    smooths: bool = False
    zero: bool = True
    equilibrium: tuple[float, float] | None = None


def nonsaturating_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(real) - log(1 - sigmoid(fake)) (Goodfellow et al. 2014, eq. 1).

    Computed from logits, without overflow.
    Two-sided smoothing s moves the targets 1 and 0 to 1 - s/2 and s/2.
    """
    return _bce(real, 1.0 - smoothing / 2) + _bce(fake, smoothing / 2)


def nonsaturating_g(real: Tensor | None, fake: Tensor) -> Tensor:
    """-log sigmoid(fake) (Goodfellow et al. 2014, section 3), unsmoothed."""
    # -log sigmoid(x) = softplus(-x): no logarithm of a rounded zero.
    return F.softplus(-upcast(fake)).mean()


def least_squares_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """((real - 1)^2 + fake^2) / 2 (Mao et al. 2017, eq. 9)."""
    # 0-1 coding: a = 0 and b = c = 1 in the paper's notation.
    return 0.5 * ((upcast(real) - 1).square().mean() + upcast(fake).square().mean())


def least_squares_g(real: Tensor | None, fake: Tensor) -> Tensor:
    """(fake - 1)^2 / 2 (Mao et al. 2017, eq. 9)."""
    return 0.5 * (upcast(fake) - 1).square().mean()


def hinge_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake) (Lim & Ye 2017; Miyato et al. 2018, eq. 16)."""
    return F.relu(1 - upcast(real)).mean() + F.relu(1 + upcast(fake)).mean()


def wasserstein_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """fake - real (Arjovsky et al. 2017). Needs a gradient penalty."""
    return upcast(fake).mean() - upcast(real).mean()


def wasserstein_g(real: Tensor | None, fake: Tensor) -> Tensor:
    """-fake: G's side of the Wasserstein and the hinge loss."""
    return -upcast(fake).mean()


def relativistic_d(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """softplus(fake - real), in pairs (Jolicoeur-Martineau 2018).

    Equation 2 of Huang et al. 2024.
    """
    # Batches are in random order, so that the n-th real and the n-th fake image are a random pair.
    return F.softplus(upcast(fake) - upcast(real)).mean()


def relativistic_g(real: Tensor | None, fake: Tensor) -> Tensor:
    """softplus(real - fake), in pairs: D's loss with the roles exchanged."""
    assert real is not None
    return F.softplus(upcast(real) - upcast(fake)).mean()


def register_loss(
    name: str,
    *,
    discriminator: Callable[[Tensor, Tensor, float], Tensor],
    generator: Callable[[Tensor | None, Tensor], Tensor],
    needs_real: bool = False,
    smooths: bool = False,
    zero: bool = True,
    equilibrium: tuple[float, float] | None = None,
) -> None:
    """Register an adversarial loss as ``loss.name`` of recipes; the arguments are :class:`AdversarialLoss`'s fields.

    Args:
        name: in recipes.
        discriminator: D's loss of logits (N,) of real and fake images and the label smoothing; a scalar.
        generator: G's loss of real logits (None unless ``needs_real``) and fake ones; a scalar.
        needs_real: G's loss compares with real logits.
        smooths: D's loss has labels to smooth.
        zero: the sign of a logit says real or fake.
        equilibrium: losses of D and G where D can only guess; None: no line in the plot.

    Raises:
        ValueError: another loss has this name.
    """
    loss = AdversarialLoss(
        discriminator=discriminator,
        generator=generator,
        needs_real=needs_real,
        smooths=smooths,
        zero=zero,
        equilibrium=equilibrium,
    )
    LOSSES.register(name, loss, discriminator)


LOSSES: Registry[AdversarialLoss] = Registry("loss")
register_loss(
    "nonsaturating",
    discriminator=nonsaturating_d,
    generator=nonsaturating_g,
    smooths=True,
    equilibrium=(2 * math.log(2), math.log(2)),
)
register_loss("least_squares", discriminator=least_squares_d, generator=least_squares_g, equilibrium=(0.25, 0.125))
# G's hinge loss is the Wasserstein one: only D's has a margin.
register_loss("hinge", discriminator=hinge_d, generator=wasserstein_g, equilibrium=(2.0, 0.0))
register_loss("wasserstein", discriminator=wasserstein_d, generator=wasserstein_g, zero=False, equilibrium=(0.0, 0.0))
register_loss(
    "relativistic",
    discriminator=relativistic_d,
    generator=relativistic_g,
    needs_real=True,
    zero=False,
    equilibrium=(math.log(2), math.log(2)),
)


def _bce(logits: Tensor, target: float) -> Tensor:
    """Return binary cross-entropy with logits, in a form that cannot overflow."""
    logits = upcast(logits)
    # -t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)) = softplus(x) - t x
    return (F.softplus(logits) - target * logits).mean()
