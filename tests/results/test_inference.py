import jax
import numpy as np
import pytest
from kinds import make_data, make_model, plain_outputs

from jaxtune.results.inference import Inference


@pytest.fixture(scope="module")
def model(root):
    return make_model(make_data(root, "single"))


def test_programs_are_compiled_once_and_follow_the_values(model):
    batch = next(model.data.valid_loader.batches())
    inference = Inference(model._trainer)
    first = np.asarray(inference.of(batch["image"])[0])
    np.testing.assert_allclose(
        first, plain_outputs(model, batch["image"]), rtol=1e-4, atol=1e-5
    )
    count = model.num_programs
    model.model[1].linear2.weight.set_value(model.model[1].linear2.weight[...] * 2)
    again = np.asarray(Inference(model._trainer).of(batch["image"])[0])
    np.testing.assert_allclose(again, 2 * first, rtol=1e-5)
    np.testing.assert_array_equal(inference.of(batch["image"])[0], first)
    assert model.num_programs == count


def test_photos_one_by_one_are_as_in_a_batch(model):
    batch = next(model.data.valid_loader.batches())
    inference = Inference(model._trainer)
    outputs, together = inference.of(batch["image"])
    np.testing.assert_allclose(jax.nn.softmax(outputs), together, atol=1e-6)
    np.testing.assert_allclose(
        inference.one_by_one(batch["image"]), together, atol=1e-6
    )
    maps = inference.heat(batch["image"], batch["label"], "body")
    assert maps.shape == (8, 7, 7) and set(maps.max(axis=(1, 2))) <= {0.0, 1.0}
