"""Functions of one's own: what users draw for each training image besides the rest.

Functions (image, key) -> image go in; they are checked, applied to one image, and told
apart. The one rule: a function is traced, never run on numbers, so what is wrong with
it is known before anything is compiled.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxtune.arguments import described

#: (image, key) -> image: float32 (h, w, c), and a key of the image's own.
ImageFunction = Callable[[Any, Any], Any]

# Folded into an image's key, and the function's position with it.
_FUNCTIONS = 2**18


def as_functions(functions: Any, name: str = "functions") -> tuple[ImageFunction, ...]:
    """Returns functions of an image and a key as a tuple; of one, too.

    Raises:
        TypeError: If one is none, takes other arguments, or can't be hashed.

    Example:
        >>> as_functions(lambda image, key: image)[0](1, None)
        1
    """
    wanted = "a function (image, key) -> image, or a list of these"
    if callable(functions):
        functions = (functions,)
    if not isinstance(functions, list | tuple):
        raise TypeError(f"{name} must be {wanted}; received {described(functions)}.")
    for position, function in enumerate(functions):
        place = name if len(functions) == 1 else f"{name}[{position}]"
        if inspect.isclass(function) or not callable(function):
            raise TypeError(
                f"{place} must be {wanted}; received {described(function)}."
            )
        try:
            inspect.signature(function).bind(None, None)
        except TypeError:
            raise TypeError(
                f"{place} must be {wanted}: {_name(function)} does not take these two"
                " arguments. Bind others with functools.partial or a lambda."
            ) from None
        except ValueError:  # some built-in functions have no signature
            pass
        try:
            hash(function)
        except TypeError:
            raise TypeError(
                f"{place} must be hashable, for a compiled step is kept for it;"
                f" {_name(function)} is not (a dataclass is with frozen=True)."
            ) from None
    return tuple(functions)


def apply_functions(
    image: Float[Array, "h w c"],
    key: Key[Array, ""],
    functions: Sequence[ImageFunction],
) -> Float[Array, "h w c"]:
    """Returns an image as the functions leave it, each with a key of its own.

    Args:
        image: Floats in 0..1, as the network's augmentation leaves it, before
            normalisation.
        key: Of the image.
        functions: In the order in which they are applied.

    Raises:
        TypeError: If a function returns something that is no image of the same shape.
    """
    for position, function in enumerate(functions):
        own = jax.random.fold_in(key, _FUNCTIONS + position)
        result = function(image, own)
        _check_result(function, result, image)
        image = jnp.asarray(result, image.dtype)
    return image


def check_functions(
    functions: Sequence[ImageFunction], shape: tuple[int, int, int]
) -> None:
    """Traces functions for images of a shape, to find what is wrong with them.

    Args:
        functions: See `as_functions`.
        shape: Height, width and channels of the network's images.

    Raises:
        TypeError: If one can't be traced, or returns another shape or type.
        ValueError: If one draws random numbers otherwise than from its key: they would
            be drawn once, when the step is compiled, and be the same for all images.
    """
    for function in functions:
        if _program(function, shape) != _program(function, shape):
            raise ValueError(
                f"the augmentation {_name(function)} gives another program each time"
                " it is traced, so it must draw random numbers from NumPy or Python."
                " They would be the same for every image: draw from the key it gets,"
                " with jax.random."
            )


def function_program(function: ImageFunction, shape: tuple[int, int, int]) -> str:
    """Returns a sha256 of what a function computes for images of a shape.

    Another function, or the same with other values in it, has another; a function that
    is written anew in the same way has the same. It depends on JAX's version.
    """
    return hashlib.sha256(_program(function, shape).encode()).hexdigest()


def _program(function: ImageFunction, shape: tuple[int, int, int]) -> str:
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def checked(image, key):
        result = function(image, key)
        _check_result(function, result, image)
        return result

    try:
        # A function of its own each time: JAX keeps what it has traced.
        traced = jax.make_jaxpr(functools.partial(checked))(image, key)
    except _WrongResultError as error:
        raise TypeError(str(error)) from None
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise TypeError(
            f"the augmentation {_name(function)} can't be traced for an image of"
            f" float32 {shape} and a key: {type(error).__name__}: {reason} It is"
            " compiled into the step, so it must be made of jax.numpy and jax.random,"
            " without NumPy and without `if` on values."
        ) from error
    lines = [re.sub(r"0x[0-9a-f]+", "0x", str(traced.jaxpr))]
    for value in [*traced.consts, *_literals(traced.jaxpr)]:
        if jnp.issubdtype(
            getattr(value, "dtype", np.dtype(float)), jax.dtypes.prng_key
        ):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        lines.append(f"{array.dtype} {array.shape} {digest}")
    return "\n".join(lines)


def _literals(jaxpr: Any) -> list:
    """Returns the values that stand in a program, those of programs in it included."""
    found = []
    for equation in jaxpr.eqns:
        found += [v.val for v in equation.invars if hasattr(v, "val")]
        for value in equation.params.values():
            for each in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(each, "jaxpr", each)
                if hasattr(inner, "eqns"):
                    found += [*getattr(each, "consts", ()), *_literals(inner)]
    return found


class _WrongResultError(TypeError):
    """What a function returns is no image as it got it."""


def _check_result(function: ImageFunction, result: Any, image: Any) -> None:
    shape = getattr(result, "shape", None)
    floats = shape is not None and jnp.issubdtype(result.dtype, jnp.floating)
    if shape == image.shape and floats:
        return
    returned = described(result) if shape is None else f"{result.dtype} {shape}"
    if isinstance(result, list | tuple | dict):
        returned = f"a {type(result).__name__}"
    raise _WrongResultError(
        f"the augmentation {_name(function)} must return an image as it gets it,"
        f" floats of shape {image.shape}; it returned {returned}."
    )


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    name = getattr(function, "__qualname__", None)
    return repr(name or type(function).__qualname__)
