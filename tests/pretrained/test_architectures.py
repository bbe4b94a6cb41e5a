from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from jaxtune.pretrained import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    WeightsMismatchError,
    resnet18,
    resnet18d,
    resnet34,
    to_torch_layout,
    write_weights,
)
from jaxtune.train import compile_step, make_predict_step, split_module
from jaxtune.transfer import create_cnn_model, evaluating

GOLDEN = Path(__file__).parents[1] / "golden" / "resnet18_imagenet1k_v1.npz"


@pytest.fixture(scope="module")
def logits(weights_dir):
    """The pretrained ResNet-18 as a function of normalised images, batches of 4."""
    graphdef, *values = split_module(evaluating(resnet18(pretrained=True)))
    step = compile_step(make_predict_step(graphdef, activation=lambda x: x))
    return lambda images: np.asarray(step(*values, np.asarray(images, np.float32)))


def test_pretrained_logits_are_pytorchs(logits):
    images = np.random.RandomState(0).randn(4, 224, 224, 3)
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(logits(images), golden["noise_logits"], atol=1e-3)


def test_pretrained_classes_of_photos_are_pytorchs(logits, data_dir):
    paths = sorted((data_dir / "imagenet_samples").iterdir())

    def prepare(path):
        with Image.open(path) as photo:
            small = photo.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        return (np.asarray(small) / 255 - IMAGENET_MEAN) / IMAGENET_STD

    found = np.concatenate(
        [
            logits(np.stack([prepare(path) for path in paths[i : i + 4]]))
            for i in range(0, len(paths), 4)
        ]
    )
    with np.load(GOLDEN) as golden:
        np.testing.assert_array_equal(found.argmax(1), golden["photo_top1"])
        right = (found.argmax(1) == golden["photo_labels"]).mean()
    assert right == 0.72


def test_every_architecture_is_a_value_with_its_name():
    assert len(ARCHITECTURES) == 14
    for name, arch in ARCHITECTURES.items():
        assert arch.name == arch.__name__ == repr(arch) == name
    assert resnet18 == ARCHITECTURES["resnet18"] != resnet34


def test_random_weights_follow_the_streams():
    one, same, other = (
        resnet18(num_classes=3, rngs=nnx.Rngs(seed)).fc.weight[...]
        for seed in (0, 0, 1)
    )
    assert (one == same).all() and not (one == other).all()


def test_a_file_of_ones_own(tmp_path):
    """Weights as a safetensors file by path; another class count comes along."""
    from networks import torch_shapes

    net = nnx.eval_shape(lambda: resnet18(num_classes=3))
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in torch_shapes(net).items()
    }
    path = tmp_path / "mine.safetensors"
    write_weights(path, arrays)
    loaded = resnet18(weights=path)
    np.testing.assert_array_equal(loaded.fc.weight[...], arrays["fc.weight"].T)
    np.testing.assert_array_equal(
        loaded.layer2[0].conv1.weight[...],
        arrays["layer2.0.conv1.weight"].transpose(2, 3, 1, 0),
    )
    with pytest.raises(WeightsMismatchError, match="layer1.2.conv1.weight"):
        resnet34(weights=path)


def named(tree):
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        yield ".".join(str(key.key) for key in path), value


@pytest.mark.parametrize("arch", [resnet18, resnet18d])
def test_a_network_for_four_channels_begins_as_the_published_one(arch, tmp_path):
    """What the fourth channel shows doesn't matter until something is learnt."""
    whole = arch(num_classes=7)
    tensors = {
        name: np.ascontiguousarray(to_torch_layout(name, np.asarray(value)))
        for tree in split_module(whole)[1:]
        for name, value in named(tree)
    }
    path = tmp_path / "weights.safetensors"
    write_weights(path, tensors)
    four = arch(weights=path, num_classes=7, in_channels=4)
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 4))
    expected = evaluating(whole)(images[..., :3])
    np.testing.assert_allclose(evaluating(four)(images), expected, atol=1e-5)
    grey = arch(weights=path, num_classes=7, in_channels=1)
    one = images[..., :1]
    np.testing.assert_allclose(
        evaluating(grey)(one),
        evaluating(whole)(jnp.repeat(one, 3, axis=-1)),
        atol=1e-4,
    )


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
    """Writes a file of a ResNet-18's arrays under other names; returns its path."""
    from networks import torch_shapes

    net = nnx.eval_shape(lambda: resnet18(num_classes=3))
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=shape).astype(np.float16)
        for name, shape in torch_shapes(net).items()
        if not name.startswith("fc.")
    }
    folder = tmp_path_factory.mktemp("weights")

    def write(name, prefix="", **beside):
        path = folder / f"{name}.safetensors"
        file = {prefix + key: each for key, each in arrays.items()}
        beside = {k.replace("__", "."): np.zeros(v, "f2") for k, v in beside.items()}
        write_weights(path, file | beside)
        return path

    return write, arrays["layer3.1.conv2.weight"].transpose(2, 3, 1, 0)


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("", {}),
        ("", {"fc__weight": (128, 512), "fc__bias": (128,)}),
        ("module.encoder_q.", {"module__encoder_q__fc__0__weight": (4, 512)}),
        ("backbone.", {"projection_head__weight": (2, 2), "queue": (4, 5)}),
    ],
)
def test_weights_need_no_classifier_for_transfer(headless, prefix, beside):
    write, kernel = headless
    net = create_cnn_model(resnet18, 3, weights=write("any", prefix, **beside))
    np.testing.assert_array_equal(net[0].layer3[1].conv2.weight[...], kernel)


def test_the_classifier_itself_must_be_there_or_be_left_out(headless):
    path = headless[0]("plain")
    with pytest.raises(WeightsMismatchError, match="write resnet18.*read_classifier"):
        resnet18(weights=path)
    fresh = resnet18(weights=path, read_classifier=False, num_classes=5)
    assert fresh.fc.weight.shape == (512, 5) and bool(fresh.fc.weight[...].any())
    with pytest.raises(ValueError, match="cut='fc' keeps the old classifier"):
        create_cnn_model(resnet18, 3, weights=path, cut="fc")
    with pytest.raises(WeightsMismatchError, match="holds the weights of resnet18"):
        create_cnn_model(resnet34, 3, weights=path)


def test_what_would_not_be_used_is_refused():
    for options, what in (
        ({"channel_init": "repeat", "in_channels": 4}, "channel_init says how"),
        ({"read_classifier": False}, "read_classifier says how published weights"),
        ({"stride_in_1x1": True}, "stride_in_1x1 is for networks of bottlenecks"),
    ):
        with pytest.raises(ValueError, match=what):
            resnet18(**options)
