"""A convolution whose weights and bias carry the affine map after it.

So XLA's GPU compiler turns convolution, bias, residual sum and ReLU into one call of
cuDNN, instead of passes of their own over the feature maps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtune.models.space_to_depth import space_to_depth_convolve


def folded_affine(
    x: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    scale: Float[Array, " d"],
    shift: Float[Array, " d"],
    residual: Float[Array, "b h2 w2 d"] | None,
    *,
    relu: bool,
    **window,
) -> Float[Array, "b h2 w2 d"]:
    """Returns relu(conv(x) * scale + shift + residual), in the dtype of x.

    The weights are multiplied in float32 and rounded once; apart from that the values
    are those of the separate operations, up to rounding.

    Args:
        x: Images or feature maps.
        weight: Kernels of the same dtype.
        scale: Factor of each output channel.
        shift: Added to each output channel, after the scale.
        residual: Added before the ReLU, or None.
        relu: Whether to apply the ReLU.
        **window: stride, padding, groups and precision, see `plain_convolve`.

    References:
        XLA, xla/service/gpu/transforms/cudnn_fused_conv_rewriter.cc, for the patterns
        that become `__cudnn$convBiasActivationForward`.
    """
    folded = (weight.astype(jnp.float32) * scale).astype(weight.dtype)
    y = space_to_depth_convolve(x, folded, **window) + shift.astype(x.dtype)
    y = y if residual is None else y + residual
    return jax.nn.relu(y) if relu else y
