"""An identity that XLA's CPU backend does not fuse across; a no-op elsewhere."""

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Shaped


def cpu_barrier(x: Shaped[Array, "*b"]) -> Shaped[Array, "*b"]:
    """Returns x; on a CPU, XLA does not fuse its producers with its consumers.

    The same holds for its derivative and its transpose.

    Args:
        x: Any array.
    """
    return _barrier_p.bind(x)


_barrier_p = Primitive("cpu_barrier")
_barrier_p.def_impl(lambda x: x)
_barrier_p.def_abstract_eval(lambda x: x)
ad.deflinear2(_barrier_p, lambda cotangent, _: (cpu_barrier(cotangent),))
batching.defvectorized(_barrier_p)
mlir.register_lowering(_barrier_p, lambda context, x: (x,))
mlir.register_lowering(
    _barrier_p,
    mlir.lower_fun(jax.lax.optimization_barrier, multiple_results=False),
    platform="cpu",
)
