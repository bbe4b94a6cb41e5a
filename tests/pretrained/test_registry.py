"""A network of one's own is registered once, and then used as ResNets are."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from jaxtune import create_cnn_model, evaluating
from jaxtune.pretrained import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    WeightsMismatchError,
    register_model,
    write_weights,
)


class Net(nnx.Module):
    def __init__(self, num_classes=10, width=8, *, rngs):
        self.stem = nnx.List([nnx.Conv(3, width, (3, 3), strides=2, rngs=rngs)])
        self.stage = nnx.Conv(width, 16, (3, 3), strides=2, rngs=rngs)
        self.fc = nnx.Linear(16, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stage(nnx.relu(self.stem[0](x))))
        return self.fc(x.mean((1, 2)))


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr("jaxtune.pretrained.registry.ARCHITECTURES", {**ARCHITECTURES})
    common = {"cut": "stage", "first_conv": "stem.0", "classifier": "fc"}
    return lambda build=Net, **options: register_model("net", build, **common | options)


def write(path, network, **changes):
    state = nnx.to_flat_state(nnx.state(network, nnx.Param))
    arrays = {".".join(map(str, k)): np.asarray(v[...]) for k, v in state}
    kept = {k: v for k, v in (arrays | changes).items() if v is not None}
    write_weights(path, kept)
    return path


def test_what_was_registered_decides_body_and_groups(register):
    net = register(groups={"first": r"stem\.", "second": "stage"}, mean=[0] * 3,
                   std=[1] * 3)  # fmt: skip
    body = create_cnn_model(net, 3, pretrained=False, hidden=()).body
    assert body.default_groups == (("first", r"stem\."), ("second", "stage"))
    assert body(np.zeros((1, 16, 16, 3), np.float32)).shape == (1, 4, 4, 16)
    assert net.statistics(pretrained=True) == ((0, 0, 0), (1, 1, 1), True)
    assert net(num_classes=4, width=5).stem[0].kernel.shape == (3, 3, 3, 5)
    assert net.__name__ == repr(net) == "net"
    assert net == dataclasses.replace(net) and hash(net) == hash(
        dataclasses.replace(net)
    )


def test_a_file_fills_it_for_any_number_of_channels(register, tmp_path):
    trained = Net(rngs=nnx.Rngs(7))
    net = register(weights=write(tmp_path / "net.safetensors", trained))
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    expected = trained(images[..., :3])
    four = net(pretrained=True, in_channels=4)
    np.testing.assert_allclose(four(images), expected, atol=1e-5)
    body = create_cnn_model(net, 3, in_channels=4, hidden=()).body
    np.testing.assert_array_equal(body.stage.kernel[...], trained.stage.kernel[...])
    assert net.statistics(pretrained=True) == (IMAGENET_MEAN, IMAGENET_STD, False)


def test_the_file_may_lack_the_classifier(register, tmp_path):
    lacks = {"fc.kernel": None, "fc.bias": None}
    path = write(tmp_path / "body.safetensors", Net(rngs=nnx.Rngs(7)), **lacks)
    net = register()
    create_cnn_model(net, 3, weights=path, hidden=())
    with pytest.raises(WeightsMismatchError, match=r"Only the classifier is not in"):
        net(weights=path)
    fresh = net(weights=path, read_classifier=False, num_classes=4)
    assert fresh.fc.kernel.shape == (16, 4)


def test_it_may_fill_itself(register):
    def build(*, pretrained, rngs):
        return Net(rngs=nnx.Rngs(7) if pretrained else rngs)

    net = register(build)
    trained, random = (net(pretrained=p, in_channels=1) for p in (True, False))
    kernel = Net(rngs=nnx.Rngs(7)).stem[0].kernel[...]
    np.testing.assert_allclose(
        trained.stem[0].kernel[...], kernel.sum(2, keepdims=True), atol=1e-6
    )
    assert (trained.stage.kernel[...] != random.stage.kernel[...]).all()
    grey = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    expected = evaluating(Net(rngs=nnx.Rngs(7)))(np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(trained(grey), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({}, {"pretrained": True}, "no published weights are known for 'net'"),
        ({"first_conv": None}, {"in_channels": 4}, "Register it with first_conv="),
        ({"first_conv": "stm"}, {"in_channels": 4}, "'stm' is None"),
        ({"mean": [0.5]}, {}, "mean and std go together"),
    ],
)
def test_what_cannot_be_is_refused(register, options, call, message):
    with pytest.raises(ValueError, match=message):
        register(**options)(**call)


def test_names_and_options_that_are_wrong(register):
    with pytest.raises(ValueError, match="'resnet18' is one of jaxtune's own"):
        register_model("resnet18", Net)
    with pytest.raises(TypeError, match="net has no option depth"):
        register()(depth=3)
    with pytest.raises(TypeError, match="arch=net needs depth"):
        register(lambda depth: depth)()
    with pytest.raises(TypeError, match="net gave 3"):
        register(lambda: 3)()
