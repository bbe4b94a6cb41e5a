"""What the page on the format says is so."""

import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import jaxtune.checkpoint
from jaxtune import create_cnn_model, group_labels, group_optimizer, resnet18
from jaxtune.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from jaxtune.results.predictor import describe
from jaxtune.train import (
    TrainState,
    init_average,
    one_cycle,
    optimizer_labels,
    raw_values,
    split_module,
    still_statistics,
    training_view,
)
from jaxtune.transfer import default_groups, evaluating

PAGE = (Path(jaxtune.checkpoint.__file__).parent / "FORMAT.md").read_text()
CLASSES = ["daisy", "dandelion", "rose", "sunflower", "tulip"]

PROLOGUE = """
import importlib.util
assert importlib.util.find_spec("jaxtune") is None
try:
    import jaxtune
except ImportError:
    pass
else:
    raise AssertionError("jaxtune is installed here")
"""

EPILOGUE = """
import jax
import numpy as np

assert "jaxtune" not in __import__("sys").modules
assert params["layer1"]["0"]["conv1"]["weight"].shape == (3, 3, 64, 64)
assert params["layer2"]["0"]["downsample"]["1"]["bias"].dtype == np.float32
trees = {"opt_state": run["opt_state"], "raw": run["raw"], **run["state"]}
sums = {
    "/".join([item, *(str(key.key) for key in keys)]): np.sum(leaf, dtype=float)
    for item, tree in trees.items()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
}
jax.tree.map(np.testing.assert_array_equal, ocp.load(path), run["state"])
alone = ocp.load(path, checkpointable_name="opt_state")
jax.tree.map(np.testing.assert_array_equal, alone, run["opt_state"])
np.savez(
    "answers.npz",
    features=features,
    update=updates["head"]["linear2"]["weight"],
    count=state.count,
    **sums,
)
"""


def listing(heading, number=0):
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```(?:\w*)\n(.*?)```", part, re.DOTALL)[number]


def raw_of_first_phase(network, params, model_state, groups):
    """What training goes on with while the head trains, as the learner makes it."""
    frozen = ("early", "late")
    labels = optimizer_labels(group_labels(params, groups), frozen)
    view = training_view(network, group_labels(params, groups), frozen)
    average = init_average(
        params, model_state, labels, decay=0.99, still=still_statistics(view)
    )
    return raw_values(TrainState(0, params, model_state, (), average))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a fine-tuned ResNet-18 leaves, with values that no training gave it."""
    network = nnx.eval_shape(lambda: create_cnn_model(resnet18, 5, pretrained=False))
    graphdef, *shapes = split_module(network)
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.uniform(0.5, 1.5, size=leaf.shape).astype(np.float32)
        return jnp.asarray(values)

    params, model_state = jax.tree.map(draw, tuple(shapes))
    groups = default_groups(network)
    tx = group_optimizer(
        group_labels(params, groups), dict.fromkeys(groups, 1e-3), one_cycle(10)
    )
    states = jax.eval_shape(tx.init, params)
    opt_state = jax.tree.map(
        lambda leaf: (
            draw(leaf)
            if leaf.dtype == np.float32
            else jnp.full(leaf.shape, 3, leaf.dtype)
        ),
        states,
    )
    path = tmp_path_factory.mktemp("run") / "runs" / "flowers" / "checkpoints" / "12"
    meta = describe(
        network={"arch": "resnet18"},
        data=types.SimpleNamespace(
            classes=tuple(CLASSES),
            size=(64, 64),
            kind="single",
            resize=None,
            pad_mode="reflection",
            in_channels=3,
            num_outputs=len(CLASSES),
        ),
        mean=None,
        std=None,
    )
    raw = raw_of_first_phase(network, params, model_state, groups)
    trees = {"params": params, "model_state": model_state, "opt_state": opt_state}
    trees["raw"] = raw
    return graphdef, trees, save_checkpoint(path, **trees, meta=meta)


def test_the_tree_on_the_page_is_that_of_a_checkpoint(run):
    *shown, meta = listing("The tree of a run").rstrip("\n").split("\n")
    *real, real_meta = str(inspect_checkpoint(run[2])).split("\n")
    shown = [*shown, *listing("A run's folder", 1).rstrip("\n").split("\n")]
    rest = iter(real)
    missing = [line for line in shown if "…" not in line and line not in rest]
    assert not missing
    assert sum("…" in line for line in shown) < 6
    # A run's description says more than what every checkpoint's does.
    words = set(re.findall(r"\w+", real_meta))
    assert words <= set(re.findall(r"\w+", meta)) and "kind" in words


def test_every_name_in_the_text_is_one_of_a_checkpoint(run):
    items = inspect_checkpoint(run[2]).items
    names = items["params"].keys() | items["model_state"].keys()
    text = PAGE.split("## The tree of a run")[0]
    quoted = set(re.findall(r"`((?:\w+\.)+(?:weight|bias|running_\w+))`", text))
    assert len(quoted) >= 4
    body = {name.removeprefix("body.") for name in names}
    assert quoted <= names | body
    table = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert table == {*items, "meta"}
    folders = set(re.findall(r"^  (\w+)/", text, re.MULTILINE))
    assert folders == {"state", *items, "meta"} - {"params", "model_state"}
    assert folders == {entry.name for entry in run[2].iterdir() if entry.is_dir()}


def test_the_names_are_the_published_ones(run, weights_dir):
    items = inspect_checkpoint(run[2]).items
    leaves = items["params"] | items["model_state"]
    ours = {
        name.removeprefix("body."): leaf.shape
        for name, leaf in leaves.items()
        if name.startswith("body.")
    }
    published = {
        name: array.shape
        for name, array in load_file(
            weights_dir / "resnet18_imagenet1k_v1.safetensors"
        ).items()
        if not name.startswith("fc.") and "num_batches_tracked" not in name
    }
    assert ours.keys() == published.keys()
    for name, shape in published.items():
        turned = (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape
        assert ours[name] == turned, name


@pytest.mark.end_to_end
def test_the_listing_opens_it_without_jaxtune(run, elsewhere, tmp_path):
    graphdef, trees, path = run
    script = tmp_path / "open.py"
    code = listing("Opening it without jaxtune")
    script.write_text(f"{PROLOGUE}{code}{EPILOGUE}")
    output = elsewhere(script, cwd=path.parents[3])
    assert str(CLASSES) in output
    with np.load(path.parents[3] / "answers.npz") as file:
        answers = dict(file)

    network = evaluating(nnx.merge(graphdef, trees["params"], trees["model_state"]))
    features = network[0][:2](jnp.ones((1, 64, 64, 3)))
    np.testing.assert_allclose(answers.pop("features"), features, rtol=2e-4, atol=1e-4)
    head = trees["opt_state"].inner_states["head"].inner_state.inner[0]
    gradient = trees["params"]["head"]["linear2"]["weight"]
    count = 3 + 1
    mu = 0.9 * head.mu["head"]["linear2"]["weight"] + 0.1 * gradient
    nu = 0.99 * head.nu["head"]["linear2"]["weight"] + 0.01 * gradient**2
    expected = (mu / (1 - 0.9**count)) / (jnp.sqrt(nu / (1 - 0.99**count)) + 1e-5)
    np.testing.assert_allclose(answers.pop("update"), expected, rtol=1e-5)
    assert answers.pop("count") == count
    leaves = inspect_checkpoint(path).leaves
    assert answers.keys() == {"/".join(name) for name in leaves}
    total = sum(np.asarray(x).sum(dtype=float) for x in jax.tree.leaves(trees))
    np.testing.assert_allclose(sum(answers.values()), total, rtol=1e-9)


@pytest.mark.end_to_end
def test_the_listing_opens_others(written_elsewhere, plain_flax, plain_values, capsys):
    code = listing("Opening other checkpoints here")
    theirs = written_elsewhere / "v0_standard_train"
    names = {"network": plain_flax.Network(seed=1), "nnx": nnx}
    exec(code.replace('"theirs"', repr(str(theirs))), names)
    assert "batch_stats" in capsys.readouterr().out
    np.testing.assert_array_equal(
        names["network"].head.kernel[...], plain_values["head.kernel"]
    )


def test_without_an_average_there_is_nothing_of_it(run, tmp_path):
    trees = {name: tree for name, tree in run[1].items() if name != "raw"}
    path = save_checkpoint(tmp_path / "plain", **trees, meta={})
    assert {entry.name for entry in path.iterdir() if entry.is_dir()} == {
        "state", "opt_state", "meta"
    }  # fmt: skip
    assert set(inspect_checkpoint(path).items) == set(trees)


def test_the_network_comes_back_from_it(run):
    _, trees, path = run
    shapes = jax.eval_shape(lambda: trees)
    params, stats = load_checkpoint(
        path, params=shapes["params"], model_state=shapes["model_state"]
    )
    for new, old in ((params, trees["params"]), (stats, trees["model_state"])):
        jax.tree.map(np.testing.assert_array_equal, new, old)
