"""What it takes until a learner is there: little is compiled, nothing drawn twice."""

import numpy as np
import pytest
from flax import nnx
from processes import run_script

from jaxtune import create_body, create_head, resnet18
from jaxtune.models import Linear, kaiming_normal
from jaxtune.pretrained import write_weights
from jaxtune.pretrained.convert import torch_shapes

# In a process of its own: whatever an earlier test compiled would not be compiled here.
COUNTED = """
import sys
import jax, numpy as np
from jaxtune import ImageDataLoaders, vision_learner

photos = np.zeros((8, 32, 32, 3), np.uint8)
data = ImageDataLoaders.from_arrays((photos, list("abababab")), size=32, batch_size=2)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **about: compiled.append(about["fun_name"])
    if name == "/jax/core/compile/backend_compile_duration" else None
)
model = vision_learner(
    data, "resnet18", weights=sys.argv[1], mean=[0.5] * 3, std=[0.5] * 3, verbose=False
)
print(*compiled)
"""
JOB = COUNTED.replace(
    "print", "compiled.clear(); model.fine_tune(1, freeze_epochs=1); print"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a whole ResNet-18."""
    shapes = torch_shapes(nnx.eval_shape(lambda: resnet18(rngs=nnx.Rngs(0))))
    path = tmp_path_factory.mktemp("weights") / "any.safetensors"
    write_weights(path, {n: np.full(s, 1 / 64, np.float32) for n, s in shapes.items()})
    return path


@pytest.mark.end_to_end
def test_a_pretrained_learner_compiles_three_programs_at_most(weights):
    assert 1 <= len(run_script(COUNTED, weights).split()) <= 3


@pytest.mark.end_to_end
def test_a_whole_job_compiles_its_three_steps_and_few_small_programs(weights):
    names = run_script(JOB, weights).split()
    steps = [name for name in names if name in ("jit(train_step)", "jit(eval_step)")]
    assert sorted(steps) == ["jit(eval_step)", "jit(train_step)", "jit(train_step)"]
    # On a CPU one more, which asks whether the compiler knows an option.
    small = [name for name in names if name not in steps and "<lambda>" not in name]
    assert len(small) <= 5, small


def test_what_a_transfer_drops_is_not_drawn(weights):
    network = resnet18(weights=weights, read_classifier=False, draw_classifier=False)
    kernel = network.fc.weight.get_value()
    assert not hasattr(kernel, "addressable_shards") and kernel.shape == (512, 1000)
    assert float(create_body(network).conv1.weight[0, 0, 0, 0]) == 1 / 64
    whole = resnet18(weights=weights, read_classifier=False)
    assert bool(whole.fc.weight[...].any())


def test_a_head_has_the_values_of_its_layers_drawn_one_by_one():
    """One program or many: the same draws, and the stream stands at the same place."""
    rngs, again = nnx.Rngs(3), nnx.Rngs(3)
    head = create_head(4, 2, hidden=(8,), rngs=rngs)
    for name, shape in (("linear1", (8, 8)), ("linear2", (8, 2))):
        Linear(*shape, rngs=again)
        wanted = kaiming_normal(again.params(), shape)
        np.testing.assert_array_equal(head[name].weight[...], wanted)
    assert rngs.params() == again.params()


def test_an_initializer_of_numpy_draws_a_head():
    def ones(key, shape):
        return np.ones(shape, np.float32)

    head = create_head(4, 2, init=ones, rngs=nnx.Rngs(0))
    assert bool((head.linear2.weight[...] == 1).all())
