import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from photos import make_photos
from processes import run_script

from jaxtune.loop.float32 import in_float32, to_float32

#: All that computes: what it comes to is printed, whatever has 64 bits among it, too.
SCRIPT = """
import os, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
import runs
from jaxtune import MixUp, load_predictor, vision_learner
from jaxtune.train import split_module

root, out = map(Path, sys.argv[1:])
options = {"ema_decay": 0.9, "gradient_accumulation_steps": 2, "mixing": MixUp()}

def make(**options):
    return runs.make_learner(root, verbose=False, **options)

def wide(model):
    values = (split_module(model.model)[1:], model._trainer.opt_state)
    return [x.dtype for x in jax.tree.leaves(values)
            if x.dtype.itemsize == 8 and x.dtype.kind in "fi"]

model = make(**options)
photo = model.data.valid_items.paths[0]
print(model.lr_find(num_it=8).losses.tolist())
print(runs.figures(model.fine_tune(1, 1e-2, run=out / "run")))
print(wide(model), model.num_programs, runs.bits(model), model.validate())
print(model.get_preds(with_loss=True, with_decoded=True).losses.tolist())
print(model.tta(n=2).probabilities.sum(0).tolist(), model.num_programs)
print(model.predict(photo), model.grad_cam(photo).heat.sum())
model.assert_frozen(), model.plan(), model.summary(), model.diff()

again = make(**options)
again.fine_tune(1, 1e-2, run=out / "run")
print(runs.bits(again) == runs.bits(model))

model.save(out / "saved")
print(load_predictor(out / "saved", module=make().model).predict([photo] * 3))
loaded = make(**options)
loaded.load(out / "saved")
loaded.fit(1)
print(wide(loaded), runs.bits(loaded))
print(jnp.zeros(()).dtype == jnp.float64, file=sys.stderr)
"""


@pytest.mark.end_to_end
def test_with_float64_on_a_learner_does_the_same_bit_for_bit(tmp_path):
    root = make_photos(tmp_path / "photos", train=16)
    said = [
        run_script(SCRIPT, root, tmp_path / on, JAX_ENABLE_X64=on).splitlines()
        for on in ("0", "1")
    ]
    assert said[0] == said[1]
    assert said[0][2].startswith("[] 3 ") and "True" in said[0]


def test_a_network_that_was_drawn_in_float64_is_made_float32(tmp_path):
    root = make_photos(tmp_path / "photos", train=8)
    data = runs.make_learner(root).data
    with jax.enable_x64(True):
        from jaxtune import Learner, create_cnn_model

        network = create_cnn_model(runs.smallest_network, 3, cut=2, pretrained=False)
        kernel = network[0].conv1.weight
        kernel.set_value(kernel[...].astype(jnp.float64))
        before = np.asarray(kernel[...])
        model = Learner(data, network, verbose=False)
        assert model.model is network and kernel[...].dtype == jnp.float32
        np.testing.assert_array_equal(kernel[...], before.astype(np.float32))
        model.fit(1)
        assert kernel[...].dtype == jnp.float32
        # And the user's own work is in float64 as it was.
        assert jnp.zeros(()).dtype == jnp.float64


def test_values_of_32_bits_are_the_same_arrays():
    network = runs.smallest_network()
    kernel = network.conv1.weight[...]
    to_float32(network)
    assert network.conv1.weight[...] is kernel


def test_float64_is_off_only_meanwhile():
    @in_float32
    def dtype():
        """Says so."""
        return jnp.zeros(()).dtype

    with jax.enable_x64(True):
        assert (dtype(), jnp.zeros(()).dtype) == (jnp.float32, jnp.float64)
    assert dtype.__name__ == "dtype"
