import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from photos import tiny_resnet
from small import two_convolutions

from jaxtune import ImageDataLoaders, accuracy, error_rate, vision_learner
from jaxtune.data import augment, normalize, per_image_keys, to_float
from jaxtune.loop.epoch_table import describe_phase
from jaxtune.pretrained import IMAGENET_MEAN, IMAGENET_STD
from jaxtune.train import (
    TrainState,
    compile_step,
    cross_entropy,
    group_optimizer,
    make_train_step,
    no_decay_paths,
    norm_paths,
    one_cycle,
    optimizer_labels,
    split_module,
    training_view,
)
from jaxtune.transfer import create_cnn_model, default_groups, group_labels


def learner(data, **options):
    options = {"metrics": error_rate, "verbose": False} | options
    return vision_learner(data, two_convolutions, cut=4, hidden=(16,), **options)


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def values(model):
    return jax.tree.map(np.asarray, split_module(model.model)[1:])


@pytest.fixture(scope="module")
def tuned(data):
    """A learner after fine_tune(3), with what it returned."""
    model = learner(data)
    return model, model.fine_tune(3, 1e-2, freeze_epochs=1)


def test_fine_tuning_learns_and_returns_both_phases(tuned):
    model, history = tuned
    assert history.history["phase"] == [1, 2, 2, 2]
    assert history.history["epoch"] == [1, 1, 2, 3]
    assert history[-1].metrics["error_rate"] < 0.2
    assert history[-1].valid_loss < history[0].valid_loss
    assert len(model.history) == 4


def test_fine_tuning_builds_two_train_programs_and_one_eval_program(tuned, data):
    model, _ = tuned
    assert model.num_programs == 3
    model.fine_tune(1, 3e-3, freeze_epochs=2, lr_mult=10, pct_start=0.5, wd=0.1)
    model.fit(1, [1e-4, 1e-3, 1e-2])
    model.freeze()
    model.fit_one_cycle(1, slice(1e-3), moms=(0.9, 0.8, 0.9))
    model.validate()
    assert model.num_programs == 3


def test_validation_counts_every_photo_once_whatever_the_batch_size(root):
    results = []
    for batch_size in (8, 21, 5):
        data = ImageDataLoaders.from_folder(root, size=32, batch_size=batch_size)
        results.append(learner(data, seed=3).validate())
    for other in results[1:]:
        assert other["error_rate"] == pytest.approx(results[0]["error_rate"])
        assert other["loss"] == pytest.approx(results[0]["loss"], rel=1e-4)
    assert results[0]["error_rate"] * 21 == pytest.approx(
        round(results[0]["error_rate"] * 21), abs=1e-4
    )


def test_unfreezing_and_freezing_change_no_value(data):
    model = learner(data)
    before = values(model)
    assert model.frozen_groups == ("early", "late")
    model.unfreeze()
    assert model.frozen_groups == ()
    model.freeze_to("late")
    assert model.frozen_groups == ("early",)
    model.freeze_to(-1)
    assert model.frozen_groups == ("early", "late")
    assert bits(values(model)) == bits(before)


def test_a_frozen_phase_leaves_the_body_bit_for_bit(data):
    model = learner(data, norms="frozen", clip_norm=1.0)
    before = values(model)
    model.fit_one_cycle(2, 1e-2)
    for old, new in zip(before, values(model), strict=True):
        assert bits(old["body"]) == bits(new["body"])
        assert bits(old["head"]) != bits(new["head"])


def test_norms_train_is_fastais_behaviour(data):
    model = learner(data, norms="train")
    before = values(model)
    model.fit_one_cycle(1, 1e-2)
    params, stats = (tree["body"] for tree in values(model))
    assert bits(params["bn1"]) != bits(before[0]["body"]["bn1"])
    assert bits(params["conv1"]) == bits(before[0]["body"]["conv1"])
    assert bits(stats) != bits(before[1]["body"])


def test_the_learner_is_its_pure_functions_bit_for_bit(data):
    """One epoch frozen, by the learner and by hand."""
    model = learner(data, norms="frozen")
    model.fit_one_cycle(1, slice(1e-2))

    net = create_cnn_model(
        two_convolutions, data.num_classes, cut=4, rngs=nnx.Rngs(0), hidden=(16,)
    )
    groups = default_groups(net)
    plain = group_labels(split_module(net)[1], groups)
    labels = optimizer_labels(
        plain, ("early", "late"), norms="frozen", norm_params=norm_paths(net)
    )
    tx = group_optimizer(
        labels,
        {"head": 1e-2},
        one_cycle(len(data.train_loader)),
        no_decay=no_decay_paths(net),
    )
    view = training_view(net, plain, ("early", "late"), norms="frozen")
    graphdef, params, model_state = split_module(view)

    def prepare(batch, key):
        images = augment(
            batch["image"],
            batch["aspect"],
            per_image_keys(key, batch["index"]),
            size=data.size,
            augmentation=data.augmentation,
        )
        return normalize(images, IMAGENET_MEAN, IMAGENET_STD)

    step = compile_step(
        make_train_step(
            graphdef, tx, loss=cross_entropy, labels=labels, prepare=prepare
        )
    )
    state = TrainState.create(params, model_state, tx)
    key = jax.random.fold_in(jax.random.key(0), 0)
    for batch in data.train_loader.batches(0):
        state, _ = step(state, batch, key)
    assert bits((state.params, state.model_state)) == bits(values(model))


def test_the_same_seed_gives_the_same_bits(root):
    runs = []
    for workers, seed in ((1, 0), (3, 0), (1, 1)):
        data = ImageDataLoaders.from_folder(
            root, size=32, batch_size=8, seed=seed, workers=workers
        )
        model = learner(data)
        model.fine_tune(1, 1e-2)
        runs.append(bits(values(model)))
    assert runs[0] == runs[1] != runs[2]


def test_predictions_of_a_path_an_array_and_a_list(tuned, data):
    model, _ = tuned
    path = data.valid_items.paths[0]
    one = model.predict(path)
    assert one.label == data.classes[one.index] and one.probabilities.shape == (3,)
    assert one.probabilities.sum() == pytest.approx(1.0, rel=1e-5)
    image = data.prepare_image(path)
    graph = nnx.view(model.model, deterministic=True, use_running_average=True)
    x = normalize(to_float(image[None]), IMAGENET_MEAN, IMAGENET_STD)
    np.testing.assert_allclose(
        one.probabilities, jax.nn.softmax(graph(x))[0], rtol=1e-4, atol=1e-6
    )
    many = model.predict(list(data.valid_items.paths))
    found = np.mean(
        [
            p.index == label
            for p, label in zip(many, data.valid_items.labels, strict=True)
        ]
    )
    assert found == pytest.approx(1 - model.validate()["error_rate"])
    np.testing.assert_allclose(many[0].probabilities, one.probabilities, rtol=1e-4)
    assert model.predict([]) == []


def test_the_body_and_the_head_are_modules_with_the_newest_values(data):
    model = learner(data)
    head = model.model[1]
    before = np.asarray(head.linear1.weight[...])
    kept = model.model[0].conv1.weight[...]
    model.fit(1, 1e-2)
    assert model.model[1] is head
    assert not np.array_equal(before, head.linear1.weight[...])
    # What was taken out before the fit is still there: steps give up only copies.
    assert not kept.is_deleted()


def test_a_change_of_the_network_stays(data):
    model = learner(data)
    model.model[0][0] = nnx.Conv(3, 8, (3, 3), strides=4, rngs=nnx.Rngs(0))
    model.unfreeze()
    model.fit(1)
    assert model.model[0][0].kernel.shape == (3, 3, 3, 8)


def test_an_interrupted_fit_keeps_the_newest_values(data, monkeypatch):
    model = learner(data)
    before = values(model)
    loader = data.train_loader

    def three_batches(epoch=0, start=0):
        for number, batch in enumerate(type(loader).batches(loader, epoch, start)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(loader, "batches", three_batches)
    with pytest.raises(KeyboardInterrupt):
        model.fit(1, 1e-2)
    assert bits(values(model)[0]["head"]) != bits(before[0]["head"])
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(values(model)))
    monkeypatch.undo()
    model.fit(1, 1e-2)


def test_a_second_fit_keeps_the_moments_and_a_new_boundary_drops_them(data):
    model = learner(data)
    model.fit(1)
    trainer = model._trainer
    assert trainer._opt_state is not None
    model.unfreeze()
    assert trainer._opt_state is None


def test_the_start_line_says_what_trains(data, capsys):
    model = learner(data, metrics=[error_rate, accuracy], verbose=True)
    history = model.fine_tune(1, freeze_epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "phase 1/2 · head only · 368 of 1,176 parameters train"
    assert lines[1].split() == [
        *("phase", "epoch", "train_loss", "valid_loss"),
        *("error_rate", "accuracy", "images/s", "time"),
    ]
    assert lines[3].startswith("phase 2/2 · all layer groups · 1,176 of 1,176 ")
    assert len(lines) == 6 and lines[5].split()[:2] == ["2", "1"]
    # Each figure stands under its own name, whatever the order of the metrics.
    cells = dict(zip(lines[1].split(), lines[5].split(), strict=True))
    row = history[-1]
    assert float(cells["error_rate"]) == pytest.approx(
        row.metrics["error_rate"], abs=1e-6
    )
    right = 1 - row.metrics["error_rate"]
    assert float(cells["accuracy"]) == pytest.approx(right, abs=1e-5)
    assert list(model.validate()) == ["loss", "error_rate", "accuracy"]


def test_many_parameters_are_counted_in_millions():
    net = nnx.eval_shape(lambda: create_cnn_model(tiny_resnet, 10, hidden=()))
    labels = group_labels(split_module(net)[1], default_groups(net))
    frozen = ("early", "late")
    line = describe_phase("phase 1", optimizer_labels(labels, frozen), net, frozen)
    assert line == "phase 1 · head only · 768 of 0.02M parameters train"


def test_two_ways_to_say_one_thing_are_refused(data):
    with pytest.raises(ValueError, match="groups or split_on, not both"):
        learner(data, groups={"all": ""}, split_on=lambda m: (m[1],))
    with pytest.raises(ValueError, match="at least two layer groups"):
        learner(data, groups={"all": ""})
