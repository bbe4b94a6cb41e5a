"""A network before and after its classes changed."""

import jax
import numpy as np
from flax import nnx

from jaxtune import evaluating
from jaxtune.transfer import output_axes


def logits(net) -> np.ndarray:
    """Returns what a network says of one photo of noise, 16 px."""
    photo = np.random.default_rng(3).normal(size=(1, 16, 16, 3)).astype(np.float32)
    graphdef, state = nnx.split(evaluating(net))
    return np.asarray(jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))(state, photo))


def arrays(net) -> dict[str, np.ndarray]:
    """Returns parameters and statistics by their paths."""
    return {
        ".".join(map(str, path)): np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(net, nnx.Not(nnx.RngState)))
    }


def rows_are_kept(new, old, places: list[int]) -> None:
    """Asserts that the new network has all of the old one, its classes at places."""
    outputs, after = logits(old), arrays(new)
    axes = output_axes(old, outputs.shape[-1], size=16)
    for name, array in arrays(old).items():
        kept = np.take(after[name], places, axes[name]) if name in axes else after[name]
        np.testing.assert_array_equal(kept, array)
    # Where a class stands decides in which order XLA adds up its logit.
    np.testing.assert_allclose(logits(new)[:, places], outputs, rtol=1e-6, atol=1e-6)
