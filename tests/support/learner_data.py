"""Small photos for the tests of learners."""

import pytest
from photos import make_photos

from jaxtune.data import ImageDataLoaders


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


@pytest.fixture(scope="session")
def data(root):
    """96 photos to train on, 21 to validate on, in batches of 8."""
    return ImageDataLoaders.from_folder(root, size=32, batch_size=8, seed=0)
