"""The examples do what their first lines say."""

import importlib.util
import os
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from photos import make_photos, tiny_resnet

from jaxtune import (
    ImageDataLoaders,
    create_body,
    cross_entropy,
    error_rate,
    resnet18,
    split_module,
    vision_learner,
)

FOLDER = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("examples"), train=16, valid=4)


@pytest.fixture
def options(photos):
    return [str(photos), "--size", "32", "--batch-size", "8"]


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def values(module):
    return bits(split_module(module)[1:])


def test_every_example_says_how_to_run_it_and_what_comes_out():
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert names == ["own_parts", "plain_flax", "pure_functions"]
    for name in names:
        lines = example(name).__doc__.splitlines()
        command = f"    python examples/{name}.py photos/hymenoptera --epochs 1"
        assert any(line.startswith(command) for line in lines)
        assert sum("train_loss 0." in line for line in lines) == 2


@pytest.fixture(scope="module")
def both(photos):
    """The example's network and figures, and a learner and its history."""
    options = [str(photos), "--size", "32", "--batch-size", "8", "--seed", "3"]
    arch = resnet18 if os.environ.get("JAXTUNE_WEIGHTS_DIR") else tiny_resnet
    net, rows = example("pure_functions").main(options, arch)
    data = ImageDataLoaders.from_folder(photos, size=32, batch_size=8, seed=3)
    model = vision_learner(data, arch, metrics=error_rate, verbose=False)
    return net, rows, model, model.fine_tune(1)


def test_pure_functions_are_the_learner_bit_for_bit(both):
    net, rows, model, history = both
    assert values(net) == values(model.model)
    columns = history.history
    assert len(rows) == 2 and list(rows[0]) == [
        "train_loss",
        "valid_loss",
        "error_rate",
    ]
    for name in rows[0]:
        assert [row[name] for row in rows] == columns[name]


def test_the_check_of_pure_functions_sees_the_last_bit(both, monkeypatch):
    net, rows, model, history = both
    module = example("pure_functions")
    learner = types.SimpleNamespace(
        model=model.model, fine_tune=lambda *epochs, **options: history
    )
    monkeypatch.setattr(module, "vision_learner", lambda *data, **options: learner)
    asked = {"epochs": 1, "freeze_epochs": 1, "seed": 3}
    module.check(None, None, net, rows, asked)
    loss = rows[1]["valid_loss"]
    other = [rows[0], rows[1] | {"valid_loss": np.nextafter(loss, 1)}]
    with pytest.raises(SystemExit, match="the learner differs"):
        module.check(None, None, net, other, asked)
    weight = net.head.linear2.weight
    weight.set_value(jnp.nextafter(weight[...], jnp.ones(())))
    with pytest.raises(SystemExit, match="the learner differs"):
        module.check(None, None, net, rows, asked)


def test_own_parts_freeze_train_and_average(options):
    module = example("own_parts")
    done = module.main([*options, "--freeze-epochs", "2"], tiny_resnet())
    (first, _, _), (frozen, average, _), (opened, _, _) = done
    body = split_module(create_body(tiny_resnet()))[1:]
    for state in (first, frozen):
        assert bits((state.params["body"], state.model_state["body"])) == bits(body)
    assert bits(opened.params["body"]) != bits(body[0])
    assert bits(opened.model_state["body"]) != bits(body[1])
    assert bits(first.params["head"]) != bits(frozen.params["head"])
    assert bits(average["head"]) != bits(frozen.params["head"])
    # An average of equal numbers is that number, but for rounding.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        nnx.to_pure_dict(average["body"]),
        nnx.to_pure_dict(body[0]),
    )
    losses = [figures["train_loss"] for _, _, figures in done]
    assert losses[1] < losses[0]


def test_the_focal_loss_of_own_parts():
    focal = example("own_parts").focal
    logits = jnp.asarray([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    label = jnp.asarray([0, 2])
    plain = cross_entropy(logits, label)
    np.testing.assert_allclose(focal(logits, label, gamma=0.0), plain, rtol=1e-6)
    p = np.exp(-np.asarray(plain))
    np.testing.assert_allclose(focal(logits, label), (1 - p) ** 2 * plain, rtol=1e-5)


def test_plain_flax_freezes_the_body_then_trains_it(options):
    module = example("plain_flax")
    body = create_body(tiny_resnet())
    before = values(body)
    model, rows = module.main([*options, "--epochs", "0"], tiny_resnet())
    assert [name for name, _, _ in rows] == ["head only"]
    assert values(model.body) == before
    assert float(jnp.abs(model.head.kernel[...]).max()) > 0
    arguments = [*options, "--freeze-epochs", "0", "--epochs", "2"]
    model, rows = module.main(arguments, tiny_resnet())
    after = split_module(model.body)[1:]
    start = split_module(body)[1:]
    assert all(bits(one) != bits(two) for one, two in zip(after, start, strict=True))
    assert rows[1][1] < rows[0][1]
