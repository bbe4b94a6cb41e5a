import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from kinds import make_data, make_model, plain_outputs
from photos import make_photos
from runs import smallest_network

from jaxtune import evaluating, split_module, validation_images, vision_learner
from jaxtune.data import prepare_image
from jaxtune.inspect.gradcam import grad_cam, scale_heat
from jaxtune.inspect.kernels import first_weight
from jaxtune.models import Linear, Sequential
from jaxtune.results.explanation import Explainer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    photos = make_photos(tmp_path_factory.mktemp("photos"), train=6, valid=3)
    model = make_model(make_data(photos, "single"))
    model.unfreeze()
    model.fit(2, 1e-2)
    return model


def test_grad_cam_of_a_photo_explains_the_prediction(model):
    path = model.data.valid_items.paths[3]
    cam, said = model.grad_cam(path, size=16), model.predict(path)
    assert cam.label == said.label
    assert cam.probability == pytest.approx(said.probabilities.max(), abs=1e-6)
    image = model.data.prepare_image(path)
    np.testing.assert_array_equal(cam.photo, image)
    programs = model._trainer.programs
    pixels = validation_images(image[None], mean=programs.mean, std=programs.std)
    parts = split_module(evaluating(model.model))
    expected = scale_heat(grad_cam(*parts, pixels, class_index=said.index))[0]
    np.testing.assert_allclose(cam.heat, expected, atol=1e-4)


def test_another_class_another_layer_and_several_photos(model):
    paths = list(model.data.valid_items.paths[:3])
    cams = model.grad_cam(paths, "green", layer="body.conv1")
    assert [cam.label for cam in cams] == ["green"] * 3
    images = np.stack([model.data.prepare_image(path) for path in paths])
    logits = plain_outputs(model, images)
    expected = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    np.testing.assert_allclose([c.probability for c in cams], expected, rtol=1e-4)
    assert model.grad_cam([]) == []
    with pytest.raises(ValueError, match="no class 'pink'; there are blue, green, red"):
        model.grad_cam(paths, "pink")
    with pytest.raises(ValueError, match="no layer 'body.layer9'"):
        model.grad_cam(paths, layer="body.layer9")


def test_the_network_looks_at_a_larger_photo_than_it_trained_on(model, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    monkeypatch.setattr(Explainer, "_agrees", lambda *given: True)
    cam, small = model.grad_cam(pixels), model.grad_cam(pixels, size=16)
    np.testing.assert_array_equal(cam.photo, prepare_image(pixels, 64))
    assert cam.heat.shape == (31, 31) and small.heat.shape == (7, 7)
    assert (cam.label, cam.probability) == (small.label, small.probability)
    assert model.grad_cam(pixels[:20, :20]).photo.shape == (16, 16, 3)
    assert model.grad_cam(pixels, size=(24, 40)).photo.shape == (24, 40, 3)


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_where_it_would_say_something_else_it_looks_at_the_photo_as_it_was(root, kind):
    class Size(nnx.Module):
        """Says how large the map is: of a larger photo it says another thing."""

        def __init__(self, outputs):
            self.bias = nnx.Param(jnp.zeros(outputs))

        def __call__(self, x):
            large = jnp.full(x.shape[:1], x.shape[1] > 8)
            rows = jnp.stack([large, ~large, large], axis=-1) * 4.0 - 2.0
            rows += 0 * x.sum((1, 2, 3))[:, None]
            return rows[:, : self.bias.shape[0]] + self.bias[...]

    data = make_data(root, kind)
    head = Size(data.num_outputs)
    model = vision_learner(data, smallest_network, cut=2, head=head, verbose=False)
    pixels = np.zeros((70, 90, 3), np.uint8)
    cam = model.grad_cam(pixels)
    assert cam.photo.shape == ((64, 64, 3) if kind == "regression" else (16, 16, 3))
    if kind != "regression":
        assert cam.label == data.classes[1]
    assert model.grad_cam(pixels, size=64).photo.shape == (64, 64, 3)


def test_a_network_of_one_size_is_shown_the_size_it_knows(root):
    class Fixed(nnx.Module):
        def __call__(self, x):
            return x.reshape(x.shape[0], 15 * 15 * 8)

    head = Sequential({"flat": Fixed(), "fc": Linear(15 * 15 * 8, 3, rngs=nnx.Rngs(0))})
    data = make_data(root, "single", size=32)
    model = vision_learner(data, smallest_network, cut=2, head=head, verbose=False)
    pixels = np.zeros((70, 90, 3), np.uint8)
    assert model.grad_cam(pixels).photo.shape == (32, 32, 3)
    with pytest.raises(TypeError, match="reshape"):
        model.grad_cam(pixels, size=64)


def test_numbers_are_explained_by_the_number_of_the_output(root):
    model = make_model(make_data(root, "regression"))
    path = model.data.valid_items.paths[0]
    cam = model.grad_cam(path, "0")
    assert cam.label == "0"
    assert cam.probability == pytest.approx(float(model.get_preds()[0][0, 0]), rel=1e-4)


def test_kernels_before_a_phase_of_a_network_and_of_a_checkpoint(model, tmp_path):
    pytest.importorskip("matplotlib")
    now = first_weight(model.model)[1]
    untrained = first_weight(smallest_network())[1]
    assert np.abs(now - untrained).max() > 0

    def titles(before):
        return [axes.get_title() for axes in model.plot_kernels(before).axes]

    first = titles(1)
    assert first[:2] == ["before phase 1", "now"] and "change x" in first[2]
    assert titles(smallest_network())[2] == first[2] == titles(untrained)[2]
    assert titles(model.save(tmp_path / "kept"))[2] == "no change"
    assert titles(None) == [""]
    with pytest.raises(ValueError, match=r"no phase 7 before this; phases so far: 1\."):
        model.plot_kernels(7)
