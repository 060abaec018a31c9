"""What a user's type checker sees: tests/test_types.py runs mypy and pyright on this file, which is never executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

import zoo
from zoo.models import Discriminator, Generator
from zoo.models.discriminator_features import DiscriminatorFeatures


class Watch:
    def on_log(self, row: dict[str, Any]) -> None: ...


def load() -> None:
    loaded = zoo.load_generator("brain-64")
    assert_type(loaded, zoo.LoadedGenerator)
    assert_type(loaded(loaded.latents(4)), Tensor)
    assert_type(loaded.sample(4, label="a"), Tensor)
    assert_type(zoo.LoadedGenerator.from_pretrained("owner/name"), zoo.LoadedGenerator)
    assert_type(loaded.save_pretrained("folder"), Path)
    assert_type(loaded.push_to_hub("owner/name"), str)


def create() -> None:
    G, D = zoo.create("dcgan-64", generator__width=0.5)
    assert_type(G, Generator)
    assert_type(D, Discriminator)
    assert_type(D(G(Tensor())), Tensor)
    assert_type(zoo.create_discriminator("dcgan-64"), Discriminator)
    features = zoo.create_discriminator("dcgan-64", features_only=True)
    assert_type(features, DiscriminatorFeatures)
    assert_type(features(Tensor()), list[Tensor])
    assert_type(zoo.list_models("dcgan*", pretrained=True), list[str])
    assert_type(zoo.list_weights(), list[str])
    assert_type(zoo.is_model("x"), bool)
    assert_type(zoo.__version__, str)


def read_images(images: Tensor) -> int:
    return len(images)


def datasets() -> None:
    assert_type(zoo.GeneratedDataset("brain-64", 4)[0], Tensor)
    assert_type(zoo.GeneratedDataset("brain-64", 4, transform=read_images)[0], int)
    assert_type(zoo.GeneratedDataset("brain-64", 4, label=1)[0], tuple[Tensor, Any])
    assert_type(zoo.GeneratedDataset("brain-64", 4, transform=read_images, label=1)[0], tuple[int, Any])
    for batch in DataLoader(zoo.GeneratedDataset("brain-64", 4), batch_size=2):
        print(batch)


def train() -> None:
    images = np.zeros((9, 64, 64), np.uint8)
    run = zoo.train("dcgan-64", data=images, labels=[0] * 9, kimg=1, callbacks=[Watch()], train__batch=8)
    assert_type(run, zoo.Run)
    assert_type(run.path, Path)
    assert_type(zoo.compare(images, images), dict[str, Any])
