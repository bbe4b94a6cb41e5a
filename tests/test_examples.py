"""The examples do what their first lines say."""

import functools
import importlib.util
import math
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from photos import make_photos, tiny_resnet
from PIL import Image
from small import small_network, small_pretrained

from jaxtune import (
    ARCHITECTURES,
    ImageDataLoaders,
    create_body,
    cross_entropy,
    error_rate,
    load_predictor,
    split_module,
    vision_learner,
)

FOLDER = Path(__file__).parents[1] / "examples"

# The small network stands in for one of which everything is known.
pytestmark = [
    pytest.mark.filterwarnings("ignore:nothing says which mean"),
    pytest.mark.end_to_end,
]


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
    assert len(names) > 10
    for name in names:
        said = example(name).__doc__
        assert f"\n    python examples/{name}.py " in said
        assert re.search(r"\b0\.\d{6}\b|error_rate 0\.\d", said)
        # A number that nobody measured.
        assert "0.000000" not in said


@pytest.fixture(scope="module")
def both(photos):
    """The example's network and figures, and a learner and its history."""
    options = [str(photos), "--size", "32", "--batch-size", "8", "--seed", "3"]
    net, rows = example("pure_functions").main(options, small_pretrained)
    data = ImageDataLoaders.from_folder(photos, size=32, batch_size=8, seed=3)
    model = vision_learner(data, small_pretrained, metrics=error_rate, verbose=False)
    return net, rows, model, model.fine_tune(1, freeze_epochs=1)


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


@pytest.fixture
def learner_example(monkeypatch, tmp_path):
    """Runs an example with the smallest head; the files that it wrote are below."""

    def run(name, photos, *options, argv=(), **changes):
        module = example(name)
        for attribute, value in changes.items():
            monkeypatch.setattr(module, attribute, value)
        learner = functools.partial(vision_learner, hidden=(), verbose=False)
        monkeypatch.setattr(module, "vision_learner", learner)
        small = ["--size", "16", "--batch-size", "8", *argv]
        return module.main([*map(str, photos), *small], *options)

    return run


def pictures(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def test_pets_have_their_label_in_the_name(photos, learner_example, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted(photos.glob("*/*/*"))):
        photo = folder / f"{path.parent.name}_cat_{number}.jpg"
        Image.open(path).save(photo)
    (folder / "blue_cat_7.mat").touch()
    out = tmp_path / "pictures"
    argv = ["--epochs", "1", "--out", str(out)]
    model, interp = learner_example("pets", [folder], small_network, argv=argv)
    assert model.data.classes == ("blue_cat", "green_cat", "red_cat")
    assert {row.phase for row in model.history} == {1, 2}
    worst = interp.top_losses(1, items=True)[2][0].name
    assert worst in capsys.readouterr().out
    assert pictures(out) == [
        "batch.png",
        "confusion.png",
        "lr_find.png",
        "results.png",
        "top_losses.png",
    ]


def test_pairs_of_photos_have_two_labels(photos, learner_example, capsys):
    argv = ["--epochs", "2", "--pairs", "24"]
    model, alone = learner_example("multi_label", [photos], small_network, argv=argv)
    assert model.data.kind == "multi" and model.data.size == (16, 32)
    assert (model.data.train_items.labels.sum(axis=1) == 2).all()
    assert len(model.data.valid_items) == 6 and len(alone) == 12
    said = capsys.readouterr().out
    shown = float(re.search(r"accuracy_multi (0\.\d+|1\.0+) at 0\.5", said)[1])
    figure = model.history[-1].metrics["accuracy_multi"]
    assert math.isclose(shown, figure, abs_tol=1e-6)
    assert "samples avg" in said and "flowers named each" in said


@pytest.mark.slow
def test_a_network_of_ones_own_transfers(photos, learner_example, capsys):
    module = example("own_network")
    model, control, errors = learner_example(
        "own_network", [photos, photos], argv=["--epochs", "2", "--runs", "1"]
    )
    assert type(model.model[0]).__name__ == "MyNetworkBody"
    assert list(model.groups) == list(module.GROUPS) == list(control.groups)
    assert {row.phase for row in model.history} == {1, 2}
    assert {name: len(found) for name, found in errors.items()} == {
        "fine-tuned": 1,
        "from scratch": 1,
    }
    assert "after 'stages.2'" in capsys.readouterr().out


def test_a_network_of_another_library_is_fine_tuned(photos, weights_dir):
    pytest.importorskip("jaxnn", reason="another library: pip install jaxnn")
    argv = [str(photos), "--size", "32", "--batch-size", "8"]
    model, apart = example("other_library").main(argv)
    assert apart < 1e-5
    assert {row.phase for row in model.history} == {1, 2}


@pytest.mark.slow
def test_four_channels_begin_as_three(photos, learner_example, tmp_path):
    pytest.importorskip("matplotlib")
    model, history = learner_example(
        "four_channels", [photos], small_network, argv=["--out", str(tmp_path)]
    )
    assert model.data.in_channels == 4
    # A body whose fourth weights are nothing sees colours only, while it is frozen.
    first = {name: rows[0].valid_loss for name, rows in history.items()}
    assert math.isclose(first["zero"], first["colours only"], rel_tol=1e-5)
    assert not math.isclose(first["repeat"], first["colours only"], rel_tol=1e-3)
    assert pictures(tmp_path) == [
        "edges.png",
        "fourth_repeat.png",
        "fourth_zero.png",
        "kernels_repeat.png",
        "kernels_zero.png",
    ]


def test_edges_are_where_a_photo_changes():
    photo = np.zeros((6, 6, 3), np.uint8)
    photo[:, 3:] = 40
    image = example("four_channels").add_edges(photo)
    assert image.shape == (6, 6, 4) and image.dtype == np.uint8
    assert (image[..., :3] == photo).all()
    assert image[2, :, 3].tolist() == [0, 0, 80, 80, 0, 0]


def test_gradual_unfreezing_thaws_one_group_more_in_each_phase(photos, learner_example):
    groups = {"conv": r"body\.(conv1|bn1)\.", "last": r"body\.layer1\."}
    histories = learner_example(
        "gradual_unfreezing", [photos], small_network, groups | {"head": r"head\."}
    )
    phases = {name: [row.phase for row in rows] for name, rows in histories.items()}
    assert phases == {
        # Six batches an epoch: the head makes a hundred updates first.
        "fine_tune": [1] * 17 + [2, 2],
        "gradual_unfreeze": [1, 2, 3],
        "phases of one's own": [1, 1, 2, 2, 3, 3],
    }
    frozen = [record.frozen for record in histories["gradual_unfreeze"].phases.values()]
    assert frozen == [("conv", "last"), ("conv",), ()]


def test_what_is_kept_is_frozen_or_fine_tuned(photos, learner_example, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "curve.png"
    found = learner_example(
        "how_transferable",
        [photos],
        small_network,
        argv=["--epochs", "1", "--out", str(out)],
        STAGES=(("conv1", "bn1", "layer1"),),
    )
    frozen, tuned = found["frozen"], found["fine-tuned"]
    assert len(frozen) == len(tuned) == 2 and frozen[0] == tuned[0]
    assert out.is_file()


def test_a_transplanted_body_keeps_what_is_named():
    module = example("how_transferable")
    body = module.transplant(small_network, ["conv1", "bn1"], seed=5)
    trained = create_body(small_network(pretrained=True))
    fresh = create_body(small_network(rngs=nnx.Rngs(5)))
    assert values(body.conv1) == values(trained.conv1) != values(fresh.conv1)
    assert values(body.layer1) == values(fresh.layer1) != values(trained.layer1)


@pytest.mark.slow
def test_look_inside_draws_every_picture(options, tmp_path, capsys):
    folder = tmp_path / "pictures"
    model = example("look_inside").main(
        [*options, "--epochs", "1", "--out", str(folder)], small_network
    )
    names = sorted(path.stem for path in folder.iterdir())
    assert len(names) == 14 and {"lr_find", "grad_cams", "residuals"} <= set(names)
    out = capsys.readouterr().out
    assert "phase 2" in out and "precision" in out
    assert float(out.split()[-1]) == pytest.approx(model.validate()["mae"], abs=1e-6)


EXTEND = sorted(path.stem for path in (FOLDER / "extend").glob("*.py"))


def extending(name):
    return example(f"extend/{name}")


def test_each_part_of_ones_own_takes_thirty_lines():
    assert EXTEND == [
        "augmentation",
        "batch_transform",
        "callback",
        "metric",
        "network",
        "optimizer",
        "source",
    ]
    for name in EXTEND:
        assert len((FOLDER / "extend" / f"{name}.py").read_text().splitlines()) <= 30


def test_a_metric_of_ones_own(photos):
    model = extending("metric").main(photos, small_network)
    figures = model.history[-1].metrics
    assert list(figures) == ["accuracy", "worst_recall"]
    matrix = model.interpret().confusion_matrix()
    recalls = matrix.diagonal() / matrix.sum(1)
    assert figures["worst_recall"] == pytest.approx(recalls.min())


def test_augmentations_of_ones_own(photos):
    module = extending("augmentation")
    model = module.main(photos, small_network)
    drawn = model.data.augmentation
    assert drawn.max_rotate == 10
    assert drawn.functions == (module.grey_or_not, module.tinted)
    assert len(model.history) == 1


def test_a_batch_transform_of_ones_own(photos):
    module = extending("batch_transform")
    model = module.main(photos, small_network)
    assert model.mixing == module.SideBySide() and len(model.history) == 1
    images = jnp.stack([jnp.full((4, 8, 3), float(n)) for n in range(4)])
    mixed, others, weight = jax.jit(module.SideBySide())(
        images, jnp.arange(4), jax.random.key(2), jnp.ones(4, bool)
    )
    means = weight * jnp.arange(4) + (1 - weight) * others
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), means, rtol=1e-6)
    assert 0.5 <= weight[0] < 1


def test_a_registered_network_of_ones_own(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "jaxtune.pretrained.registry.ARCHITECTURES", registered := {**ARCHITECTURES}
    )
    for module in ("transfer.cnn", "results.predictor"):
        monkeypatch.setattr(f"jaxtune.{module}.ARCHITECTURES", registered)
    model, predictor = extending("network").main(photos, tmp_path / "net")
    assert list(model.groups) == ["stem", "top", "head"]
    assert model.model.body.stem.kernel.shape[2] == model.data.in_channels == 4
    photo = next(photos.rglob("*.png"))
    assert predictor.predict(photo).label == model.predict(photo).label
    del registered["net"]
    with pytest.raises(ValueError, match=r"Call register_model\('net', ...\) before"):
        load_predictor(tmp_path / "net")


def test_an_optimizer_of_ones_own(photos):
    module = extending("optimizer")
    model = module.main(photos, small_network)
    assert model.optimizer is module.lion
    assert {row.phase for row in model.history} == {1, 2}


@pytest.mark.parametrize(("error", "epochs"), [(1.0, 1), (-1.0, 5)])
def test_a_callback_of_ones_own(photos, error, epochs):
    model = extending("callback").main(photos, small_network, error)
    assert len(model.history) == epochs


def test_a_source_of_ones_own():
    model = extending("source").main(small_network)
    assert model.data.classes == ("large", "small")
    assert len(model.data.train_items) == 64 and len(model.history) == 1
