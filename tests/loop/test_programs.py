from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import runs
from flax import nnx
from photos import make_photos, tiny_resnet
from small import two_convolutions

from jaxtune import Augmentation, ImageDataLoaders, evaluating, vision_learner
from jaxtune.loop import compiled_steps
from jaxtune.loop.compiled_steps import CompiledSteps
from jaxtune.train import Phase, constant, cross_entropy, focal, split_module


def make(**options):
    settings = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)} | options
    return CompiledSteps(
        size=(32, 32), augmentation=None, loss=cross_entropy, metrics={}, **settings
    )


def test_a_program_is_made_once_and_kept():
    programs = make()
    net = evaluating(tiny_resnet())
    step = programs.predict_step(nnx.graphdef(net))
    assert programs.predict_step(nnx.graphdef(evaluating(tiny_resnet()))) is step
    assert programs.count == 0
    values = split_module(net)[1:]
    images = np.zeros((2, 32, 32, 3), np.uint8)
    step(*values, images)
    step(*values, images + 1)
    assert programs.count == 1


def test_images_are_normalised_as_the_weights_were():
    net = evaluating(tiny_resnet())
    graphdef, params, model_state = split_module(net)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    for options, x in (
        ({}, (images / 255 - 0.5) / 0.25),
        ({"mean": None, "std": None}, images / 255),
    ):
        got = make(**options).predict_step(graphdef)(params, model_state, images)
        expected = jax.nn.softmax(net(jnp.asarray(x, jnp.float32)))
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_other_data_begins_with_no_program():
    programs = make()
    programs.predict_step(nnx.graphdef(evaluating(tiny_resnet())))
    data = SimpleNamespace(size=(16, 16), augmentation=None)
    other = programs.for_data(data)
    assert other.describe() == programs.describe()
    assert (programs._size, other._size) == ((32, 32), (16, 16))
    assert len(programs._steps) == 1 and not other._steps
    assert programs.for_data(data, loss=focal).loss is focal


def test_what_a_learner_compiles_is_a_program_for_every_platform():
    """The photos' preparation included."""
    images = np.zeros((8, 24, 32, 3), np.uint8)
    labels = ["cat", "dog"] * 4
    data = ImageDataLoaders.from_arrays(
        (images, labels), (images.copy(), labels), size=16, batch_size=4
    )
    model = vision_learner(
        data, two_convolutions, cut=4, precision="bfloat16", verbose=False
    )
    trainer, phase = model._trainer, Phase(None, None, 1, (1e-3,) * 3, constant(), 0.0)
    batch, steps = next(data.train_loader.batches(0)), {}
    for frozen in (True, False):
        model.freeze() if frozen else model.unfreeze()
        step, state = trainer.begin(phase)
        steps["frozen" if frozen else "unfrozen"] = (
            step,
            (state, batch, jax.random.key(0)),
        )
    programs, graphdef = trainer.programs, trainer.eval_graphdef()
    values = trainer.values()
    steps["eval"] = programs.eval_step(graphdef), (*values, batch)
    steps["predict"] = programs.answer_step(graphdef), (*values, batch["image"])
    for step, arguments in steps.values():
        program = jax.jit(step.__wrapped__)
        exported = jax.export.export(program, platforms=["cpu", "cuda", "tpu"])
        text = exported(*arguments).mlir_module()
        assert "jaxtune_convolution" not in text
        traced = program.trace(*arguments)
        for platform in ("cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "optimization_barrier" not in text and "custom_call" not in text


def traced_by(run) -> list[str]:
    """Names of the programs that are traced while something runs."""
    names = []

    def listen(event, seconds, **about):
        if event.endswith("jaxpr_trace_duration"):
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return names


def test_a_second_learner_of_the_same_recipe_compiles_no_step(tmp_path, fresh_programs):
    """A notebook's cell that is run again, a sweep over seeds, a cross-validation."""
    root = make_photos(tmp_path / "photos")
    steps = {"train_step", "eval_step", "predict_step"}

    def train(**options):
        model = runs.make_learner(root, verbose=False, **options)
        model.fine_tune(1, freeze_epochs=1)
        return model.history.history["valid_loss"], model

    first = []
    assert steps & set(traced_by(lambda: first.append(train())))
    again, other_seed = [], []
    assert not steps & set(traced_by(lambda: again.append(train())))
    assert not steps & set(traced_by(lambda: other_seed.append(train(seed=1))))
    assert first[0][0] == again[0][0] != other_seed[0][0]
    assert first[0][1].num_programs == again[0][1].num_programs == 3


def test_another_setting_is_another_program():
    graphdef = nnx.graphdef(evaluating(runs.smallest_network()))
    plain = make()
    base = plain.eval_step(graphdef)._jitted
    assert make().eval_step(graphdef)._jitted is base
    for other in (
        make(mean=(0.4, 0.5, 0.5)),
        make(activation=jax.nn.sigmoid),
        make(objective=focal),
        plain.changed("eval", metrics={"error": cross_entropy}),
        plain.for_data(SimpleNamespace(size=(16, 16), augmentation=None)),
        plain.for_data(SimpleNamespace(size=(32, 32), augmentation=Augmentation())),
    ):
        assert other.eval_step(graphdef)._jitted is not base


def test_a_function_of_the_users_is_traced_for_each_learner():
    """What it reads may have changed, as in a notebook."""
    weight = 1.0

    def weighted(logits, label):
        return weight * cross_entropy(logits, label)

    graphdef, params, model_state = split_module(evaluating(runs.smallest_network()))
    batch = {"image": np.zeros((2, 32, 32, 3), np.uint8), "label": np.array([0, 1])}

    def loss():
        step = make().changed("eval", loss=weighted).eval_step(graphdef)
        return float(step(params, model_state, batch)["loss"])

    first = loss()
    weight = 2.0
    assert loss() == 2 * first


class _Settings:
    """What a network may hold; it equals itself only, and may change."""


def test_what_may_change_is_not_shared():
    unchanging = compiled_steps._is_unchanging
    assert unchanging((None, 1, 2.5, "name", np.dtype("float32"), jnp.float32))
    assert unchanging((jax.nn.relu, cross_entropy, nnx.Linear, {"a": (1,)}))
    assert unchanging(Augmentation())
    assert unchanging(nnx.graphdef(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))))
    assert not unchanging(lambda x: x)
    assert not unchanging(_Settings()) and not unchanging(_Settings)
    assert not unchanging(Augmentation(functions=lambda image, key: image))

    class Own(nnx.Module):
        pass

    assert not unchanging(nnx.graphdef(Own()))
    assert not unchanging(
        nnx.graphdef(nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), make))
    )
