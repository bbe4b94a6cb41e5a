"""Losses, one value for each example.

Logits and labels in, a loss per row out. The one rule of the file: nothing is averaged
here; the step does that, so that padded rows never count.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b c"], label: Int[Array, "b"]
) -> Float[Array, "b"]:
    """Returns softmax cross-entropy in nats for each row, computed in float32.

    References:
        `torch.nn.CrossEntropyLoss`, fastai `CrossEntropyLossFlat`.
    """
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)
