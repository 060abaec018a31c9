"""Random draws are functions of the seed and the image counter."""

import numpy as np
import torch

from zoo.models import sampling
from zoo.runtime import rng


def test_order_takes_every_image_once_per_epoch_for_any_batch():
    order = rng.ImageOrder(0, 10)
    drawn = np.concatenate([order.take(start, 4) for start in range(0, 40, 4)])
    for epoch in drawn.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(drawn[:10], drawn[10:20])
    assert np.array_equal(rng.ImageOrder(0, 10).take(13, 9), drawn[13:22])  # depends on no earlier call
    three = rng.ImageOrder(0, 3)
    assert np.array_equal(three.take(0, 9), np.concatenate([three.take(start, 3) for start in (0, 3, 6)]))


def test_replacement_draws_all_images_and_repeats_exactly():
    order = rng.ImageOrder(3, 5, replacement=True)
    drawn = np.concatenate([order.take(n, 64) for n in range(0, 640, 64)])
    assert set(drawn) == set(range(5))
    assert np.array_equal(order.take(64, 64), drawn[64:128])


def test_streams_are_unrelated():
    assert rng.derive_seed(1, "latents", 2) != rng.derive_seed(12, "latents", "") != rng.derive_seed(1, "order", 2)
    a, b = rng.draw_latents(0, 0, 1000, 8), rng.draw_latents(0, 64, 1000, 8)
    assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.05
    assert abs(a.mean()) < 0.05
    assert abs(a.std() - 1) < 0.05


def test_fixed_latents_do_not_depend_on_their_number():
    assert torch.equal(rng.fixed_latents(5, 3, 7), rng.fixed_latents(5, 9, 7)[:3])
    assert not torch.equal(rng.fixed_latents(5, 3, 7), rng.fixed_latents(6, 3, 7))


def test_slerp_keeps_end_points_and_lengths():
    torch.manual_seed(0)
    a, b = torch.randn(4, 256), torch.randn(4, 256)
    torch.testing.assert_close(sampling.slerp(a, b, 0.0), a)
    torch.testing.assert_close(sampling.slerp(a, b, 1.0), b)
    b = b / b.norm(dim=1, keepdim=True) * a.norm(dim=1, keepdim=True)
    torch.testing.assert_close(sampling.slerp(a, b, 0.3).norm(dim=1), a.norm(dim=1))
    assert sampling.slerp(a, a, 0.5).isfinite().all()
    assert sampling.slerp(a, -a, 0.5).isfinite().all()


def test_fixed_latents_differ_and_do_not_depend_on_their_number():
    few, many = rng.fixed_latents(7, 3, 5), rng.fixed_latents(7, 8, 5)
    assert torch.equal(few, many[:3])
    assert torch.equal(rng.fixed_latents(7, 2, 5, first=3), many[3:5])
    assert len({tuple(row.tolist()) for row in many}) == 8
    assert not torch.equal(few, rng.fixed_latents(8, 3, 5))
