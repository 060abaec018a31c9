"""Generated images as a data set: equal to `sample`, in every order and in every worker."""

import operator
import pickle

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

import zoo
from zoo.core.errors import ZooError


@pytest.fixture
def run(runs):
    return runs / "dcgan-64-000"


FLOAT = operator.methodcaller("float")  # which a worker can unpickle


def test_items_equal_sample_in_any_order(run):
    images = zoo.load_generator(run).sample(37, seed=5)
    fakes = zoo.GeneratedDataset(run, 37, seed=5, transform=lambda image: image)
    assert len(fakes) == 37
    for index in (36, 0, 17, -1, 16):
        assert torch.equal(fakes[index], images[index])
    assert sorted(fakes._chunks) == [0, 1, 2]
    for index in (37, -38):
        with pytest.raises(IndexError):
            fakes[index]
    fakes[0].zero_()
    assert torch.equal(fakes[0], images[0])


def test_items_are_floats_without_a_transform(run):
    image = zoo.GeneratedDataset("dcgan-64", 3, runs=run.parent)[2]
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert image.shape == (1, 16, 16)
    assert not torch.equal(image, zoo.GeneratedDataset(run, 3, seed=1)[2])


def test_items_are_pairs_with_a_label(run):
    real = [(torch.zeros(1, 16, 16), 0)]
    fakes = zoo.GeneratedDataset(zoo.load_generator(run), 4, label=1)
    images, labels = next(iter(DataLoader(ConcatDataset([real, fakes]), batch_size=5)))
    assert images.shape == (5, 1, 16, 16)
    assert labels.tolist() == [0, 1, 1, 1, 1]


def test_make_generates_all_images(run):
    counts = []
    fakes = zoo.GeneratedDataset(run, 20).make(counts.append)
    assert counts == [16, 4]
    fakes.generator = None
    assert fakes[19].shape == (1, 16, 16)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_generate_the_same_images(run, method):
    fakes = zoo.GeneratedDataset(run, 20, transform=FLOAT)
    expected = torch.stack([fakes[index] for index in range(20)])
    fresh = zoo.GeneratedDataset(run, 20, transform=FLOAT)
    loader = DataLoader(fresh, batch_size=6, num_workers=1, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(loader)), expected)
    assert torch.equal(pickle.loads(pickle.dumps(fresh))[3], expected[3])


def test_empty_data_set_is_refused(run):
    with pytest.raises(ZooError, match="number of images 0: must be a whole number from 1"):
        zoo.GeneratedDataset(run, 0)
