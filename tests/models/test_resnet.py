import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draw import draw_images, draw_labels, positions
from flax import nnx
from networks import NOTES, build, golden, torch_shapes

from jaxtune.models import BasicBlock, BatchNorm, ResNet, Sequential, call_module
from jaxtune.train import compile_step, cross_entropy, split_module
from jaxtune.transfer import evaluating

#: Those that take ten training steps in every run; the others do with -m slow.
QUICK = {"resnet18", "resnet26d"}

#: One network of each kind, whose features are compared in every run: each block, the
#: deep stem with its average shortcuts, the paper's stride, groups with another width.
#: The others, which differ from these in numbers alone, are with -m slow.
KINDS = {"resnet18", "resnet26d", "resnet50", "resnet50_v1", "resnext50_32x4d"}


def relative(left, right) -> float:
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float(np.abs(left - right).max() / np.sqrt((right**2).mean()))


def stages(net, x) -> dict:
    taps = {"maxpool": "stem", "avgpool": "pooled"}
    kept = {}
    for name in net.names:
        x = call_module(net[name], x)
        kept[taps.get(name, name)] = x
    return kept


@pytest.mark.parametrize(
    "name",
    [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in NOTES],
)
def test_features_and_logits_are_pytorchs(name):
    expected = golden(name)
    graphdef, params, model_state = split_module(evaluating(build(name)))

    @jax.jit
    def run(params, model_state, x, odd):
        net = nnx.merge(graphdef, params, model_state)
        return stages(net, x), net(odd)

    kept, odd = run(
        params,
        model_state,
        draw_images(0, (2, 64, 64, 3)),
        draw_images(1, (1, 75, 90, 3)),
    )
    assert relative(kept["fc"], expected["logits"]) < 1e-4
    flat = np.asarray(odd).reshape(-1)
    assert relative(flat[positions(flat.size)], expected["odd_logits"]) < 1e-4
    for stage in ("stem", "layer1", "layer2", "layer3", "layer4", "pooled"):
        values = np.asarray(kept[stage])
        assert values.shape == tuple(expected[f"{stage}.shape"])
        chosen = values.reshape(-1)[positions(values.size)]
        assert relative(chosen, expected[f"{stage}.values"]) < 1e-4
        mean, norm = expected[f"{stage}.summary"]
        values = values.astype(np.float64)
        assert np.sqrt((values**2).sum()) == pytest.approx(norm, rel=1e-4)
        assert values.mean() == pytest.approx(mean, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NOTES],
)
def test_ten_training_steps_are_pytorchs(name):
    """Losses and batch-norm statistics, with torch's momentum and unbiased variance."""
    expected, notes = golden(name), NOTES[name]["train"]
    graphdef, params, model_state = split_module(build(name))
    tx = optax.sgd(notes["rate"])

    def step(state, image, label):
        params, model_state = state

        def mean_loss(params):
            net = nnx.merge(graphdef, params, model_state)
            loss = cross_entropy(net(image), label).mean()
            return loss, nnx.as_pure(nnx.split(net, nnx.Param, ...)[2])

        (loss, stats), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, _ = tx.update(grads, tx.init(params))
        return (optax.apply_updates(params, updates), stats), loss

    step = compile_step(step)
    state, losses = (params, model_state), []
    for i in range(notes["steps"]):
        seed = notes["first_seed"] + i
        image = draw_images(seed, (notes["batch"], notes["size"], notes["size"], 3))
        label = draw_labels(
            seed, notes["batch"], num_classes=notes["num_label_classes"]
        )
        state, loss = step(state, image, label)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5)

    net = nnx.merge(graphdef, *state)
    for i, norm in enumerate(expected["norm_names"]):
        module = net
        for key in str(norm).split("."):
            module = getattr(module, key)
        for leaf, row in (
            (module.running_mean, expected["norm_mean"][i]),
            (module.running_var, expected["norm_var"][i]),
        ):
            values = np.asarray(leaf[...], np.float64)
            length = np.sqrt((values**2).sum())
            assert length == pytest.approx(row[1], rel=1e-4), norm
            rms = row[1] / np.sqrt(values.size)
            assert np.abs(values[:4] - row[2:]).max() < 1e-4 * rms, norm


@pytest.mark.parametrize("name", NOTES)
def test_paths_and_shapes_are_the_published_ones(name):
    arch = {"stride_in_1x1": True} if name.endswith("_v1") else {}
    from jaxtune.pretrained import ARCHITECTURES

    net = nnx.eval_shape(lambda: ARCHITECTURES[name.removesuffix("_v1")](**arch))
    shapes = torch_shapes(net)
    lines = sorted(f"{k} {' '.join(map(str, v))}" for k, v in shapes.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == NOTES[name]["names_sha256"]
    leaves = jax.tree.leaves(split_module(net)[1])
    assert sum(leaf.size for leaf in leaves) == NOTES[name]["parameters"]


def test_children_have_torchvisions_order_and_names():
    net = nnx.eval_shape(lambda: ResNet(BasicBlock, (1, 1, 1, 1), rngs=nnx.Rngs(0)))
    assert net.names == (
        *("conv1", "bn1", "relu", "maxpool"),
        *("layer1", "layer2", "layer3", "layer4", "avgpool", "fc"),
    )
    assert net[6] is net.layer3 is net["layer3"]
    assert isinstance(net[:-2], Sequential) and net[:-2][-1] is net.layer4
    assert isinstance(net.layer1[0].bn1, BatchNorm)


def test_a_basic_block_refuses_what_only_a_bottleneck_has():
    with pytest.raises(ValueError, match="Use Bottleneck"):
        ResNet(BasicBlock, (1, 1, 1, 1), groups=32, rngs=nnx.Rngs(0))


def test_other_channel_counts_and_class_counts():
    net = evaluating(
        ResNet(BasicBlock, (1, 1, 1, 1), in_channels=5, num_classes=7, rngs=nnx.Rngs(0))
    )
    assert net(jnp.zeros((2, 32, 48, 5))).shape == (2, 7)
