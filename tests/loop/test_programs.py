from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from photos import tiny_resnet

from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.loop.compiled_steps import CompiledSteps
from jaxtune.train import Phase, constant, cross_entropy, focal, split_module
from jaxtune.transfer import evaluating


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
    model = vision_learner(data, tiny_resnet, precision="bfloat16", verbose=False)
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
