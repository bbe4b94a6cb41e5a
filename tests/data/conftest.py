"""Real photos for the tests of this room."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def photos():
    folder = os.environ.get("JAXTUNE_DATA_DIR")
    if not folder:
        pytest.skip("JAXTUNE_DATA_DIR is not set: no real photos to test with")
    return Path(folder)
