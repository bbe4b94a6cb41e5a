"""What is drawn for each training image, as a value: `Augmentation`, `Transform`.

Both can be hashed and compared, for a compiled step is kept for them. A transform is
traced before anything is compiled, so what is wrong with it is known before training.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Sequence
from typing import Any, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxtune.arguments import (
    Number,
    check_choice,
    check_flag,
    check_number,
    check_numbers,
    described,
)
from jaxtune.data.resize import PadMode

# Beyond it the far corner of the tilted photo comes to lie behind the viewer.
_MAX_WARP = 0.5


# Folded into an image's key, and the transform's position with it.
_FUNCTIONS = 2**18


@runtime_checkable
class Transform(Protocol):
    """An augmentation of your own: a pure function (image, key) -> image.

    It is compiled into the training step, so it is made of jax.numpy and jax.random,
    and draws from its key alone. A run's recipe holds its name and a hash of what it
    computes. A plain function is one; so is a frozen dataclass with `__call__`. What is
    decorated with `batchwise` gets a whole batch instead of one photo.
    """

    def __call__(
        self, images: Float[Array, "*b h w c"], key: Key[Array, ""]
    ) -> Float[Array, "*b h w c"]:
        """Returns images of the same shape.

        Args:
            images: float32 in 0..1, before normalisation: one photo (h, w, c), or, if
                batchwise, a batch (b, h, w, c), rows of padding included.
            key: The photo's own, whatever batch it is in; or the batch's own.
        """


def batchwise(function: Any) -> Any:
    """Marks a function as one of whole batches, and returns it: a decorator.

    Example:
        >>> @batchwise
        ... def halved(images, key):
        ...     return images / 2
        >>> is_batchwise(halved), is_batchwise(lambda image, key: image)
        (True, False)
    """
    function.batchwise = True
    return function


def is_batchwise(function: Any) -> bool:
    """Returns whether a transform takes whole batches."""
    if isinstance(function, functools.partial) and not hasattr(function, "batchwise"):
        function = function.func
    return bool(getattr(function, "batchwise", False))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is drawn for each training image, each draw its own.

    First the crop; then, in the crop's frame, a flip, a rotation, a zoom and a change
    of perspective, all of them one resampling of the photo; then the light. What the
    rotation brings in from beside the crop are the photo's own pixels where it has
    them, and `pad_mode` where it ends. The defaults draw a random resized crop and a
    mirror image; `aug_transforms` makes fastai's.

    Attributes:
        min_scale: Smallest share of the photo's area that a crop keeps.
        max_scale: Largest share.
        ratio: Smallest and largest width / height of a crop, in the photo's own
            geometry; drawn uniformly in the logarithm. None for crops of the result's
            own shape, never squashed: the shares are then of the largest such crop.
        flip: Whether half of the images are mirrored left to right.
        flip_vert: Whether, instead, half of them take one of the square's eight
            symmetries.
        max_rotate: Largest angle of a rotation to either side, in degrees.
        min_zoom: Smallest magnification about a random point.
        max_zoom: Largest magnification.
        max_warp: Largest tilt of the perspective, in each direction: the share of half
            a side by which corners move.
        max_lighting: Largest change of brightness and of contrast, see `relight`.
        p_affine: Probability of each of rotation, zoom, and the tilts in x and y.
        p_lighting: Probability of each of brightness and contrast.
        pad_mode: What lies beyond the photo: "reflection", "border" or "zeros".
        functions: Transforms of your own, applied last, in their order; see
            `Transform`.

    Raises:
        TypeError: If a value is of another type, or a function takes no image and key.
        ValueError: If a bound is out of range.

    References:
        Szegedy et al., "Going Deeper with Convolutions",
        https://arxiv.org/abs/1409.4842, section 6; fastai 2.8.12, vision/augment.py
        `RandomResizedCrop`, whose min_scale is 0.08; 0.35 suits a short fine-tuning.
    """

    min_scale: Number = 0.35
    max_scale: Number = 1.0
    ratio: Any = (3 / 4, 4 / 3)
    flip: bool = True
    flip_vert: bool = False
    max_rotate: Number = 0.0
    min_zoom: Number = 1.0
    max_zoom: Number = 1.0
    max_warp: Number = 0.0
    max_lighting: Number = 0.0
    p_affine: Number = 0.75
    p_lighting: Number = 0.75
    pad_mode: PadMode = "reflection"
    functions: Any = ()

    def __post_init__(self) -> None:
        """Refuses bounds that no image can be drawn within."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # What could not be hashed, or written as JSON, becomes Python's own.
            object.__setattr__(self, field.name, _plain(field, value))
        pad_modes = get_args(PadMode)
        for holds, needs, names in (
            (
                0 < self.min_scale <= self.max_scale <= 1,
                "0 < min_scale <= max_scale <= 1 (shares of the photo's area)",
                ("min_scale", "max_scale"),
            ),
            (
                self.ratio is None
                or (len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1]),
                "ratio=(smallest, largest) width / height, both positive, or None for"
                " the result's own shape",
                ("ratio",),
            ),
            (
                self.flip or not self.flip_vert,
                "flip=True for flip_vert, which is a flip too",
                ("flip", "flip_vert"),
            ),
            (0 <= self.max_rotate <= 180, "max_rotate of 0 to 180 degrees",
             ("max_rotate",)),
            (
                0 < self.min_zoom <= self.max_zoom,
                "0 < min_zoom <= max_zoom (1 leaves the size)",
                ("min_zoom", "max_zoom"),
            ),
            (0 <= self.max_warp <= _MAX_WARP, f"max_warp of 0 to {_MAX_WARP}",
             ("max_warp",)),
            (0 <= self.max_lighting < 1, "0 <= max_lighting < 1", ("max_lighting",)),
            (
                0 <= self.p_affine <= 1 and 0 <= self.p_lighting <= 1,
                "probabilities of 0 to 1",
                ("p_affine", "p_lighting"),
            ),
            (self.pad_mode in pad_modes, f"pad_mode one of {', '.join(pad_modes)}",
             ("pad_mode",)),
        ):  # fmt: skip
            if not holds:
                got = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
                raise ValueError(f"Augmentation needs {needs}; got {got}.")

    @property
    def warps(self) -> bool:
        """Whether lines of pixels may be drawn that are not lines of the photo."""
        zooms = (self.min_zoom, self.max_zoom) != (1, 1)
        return bool(self.flip_vert or self.max_rotate or zooms or self.max_warp)

    @property
    def smallest_share(self) -> float:
        """The share of a photo's area that small crops keep, on each side alike.

        For how large a photo has to be made before it goes to the device: without a
        `ratio`, the crop of a 4:3 photo keeps three quarters of one side.
        """
        return float(self.min_scale) * (9 / 16 if self.ratio is None else 1.0)


def _plain(field: dataclasses.Field, value: Any) -> Any:
    name = field.name
    if name == "functions":
        return as_functions(value)
    if name == "pad_mode":
        return check_choice(value, name, get_args(PadMode))
    if isinstance(field.default, bool):
        return check_flag(value, name)
    if name != "ratio":
        return _number(value, name)
    if value is None:
        return None
    what = "numbers (smallest, largest width / height), or None"
    numbers = check_numbers(value, name, count=2, what=what)
    return tuple(
        each if type(each) in (int, float) else number
        for each, number in zip(value, numbers, strict=True)
    )


def _number(value: Any, name: str) -> Any:
    number = check_number(value, name)
    return value if type(value) in (int, float) else number


def aug_transforms(
    *,
    mult: Number = 1.0,
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: Number = 10.0,
    min_zoom: Number = 1.0,
    max_zoom: Number = 1.1,
    max_lighting: Number = 0.2,
    max_warp: Number = 0.2,
    p_affine: Number = 0.75,
    p_lighting: Number = 0.75,
    min_scale: Number = 1.0,
    max_scale: Number = 1.0,
    ratio: Any = None,
    pad_mode: PadMode = "reflection",
    xtra_tfms: Any = None,
) -> Augmentation:
    """Returns fastai's augmentation: flip, rotation, zoom, perspective and light.

    Constants and distributions are fastai's; so is the crop: as large as the photo
    allows in the result's shape, at a random place, unless `min_scale` makes it
    smaller. It differs where fastai was at odds with itself: a smaller crop is drawn
    for each image and not once for the batch, and where a rotation looks beside the
    crop it finds the photo there.

    Args:
        mult: Multiplies `max_rotate`, `max_lighting` and `max_warp`.
        do_flip: Whether half of the images are mirrored left to right.
        flip_vert: Whether, instead, half take one of the square's eight symmetries.
        max_rotate: Largest angle in degrees.
        min_zoom: Smallest magnification.
        max_zoom: Largest magnification.
        max_lighting: Largest change of brightness and contrast.
        max_warp: Largest change of perspective.
        p_affine: Probability of each of rotation, zoom and perspective.
        p_lighting: Probability of each of brightness and contrast.
        min_scale: Smallest share of the area that a crop keeps; 0.75 in fastai's
            presizing.
        max_scale: Largest share.
        ratio: Width / height of the crops, smallest and largest, for a random resized
            crop; None for the result's own shape.
        pad_mode: What lies beyond the photo: "reflection", "border" or "zeros".
        xtra_tfms: Transforms of your own, see `Transform`.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If a bound is out of range.

    References:
        fastai 2.8.12, vision/augment.py `aug_transforms`.

    Example:
        >>> aug_transforms(mult=2, flip_vert=True).max_rotate
        20.0
    """
    check_flag(do_flip, "do_flip")
    for name, value in (
        ("max_rotate", max_rotate),
        ("max_warp", max_warp),
        ("max_lighting", max_lighting),
    ):
        check_number(value, name)
    mult = _number(mult, "mult")
    if not 0 <= max_rotate * mult <= 180:
        raise ValueError(
            "mult multiplies max_rotate, max_warp and max_lighting, and a rotation is"
            f" one of 0 to 180 degrees; received mult={mult}, max_rotate={max_rotate}."
        )
    functions = () if xtra_tfms is None else as_functions(xtra_tfms, "xtra_tfms")
    return Augmentation(
        min_scale=min_scale,
        max_scale=max_scale,
        ratio=ratio,
        flip=do_flip,
        flip_vert=flip_vert,
        max_rotate=max_rotate * mult,
        min_zoom=min_zoom,
        max_zoom=max_zoom,
        max_warp=max_warp * mult,
        max_lighting=max_lighting * mult,
        p_affine=p_affine,
        p_lighting=p_lighting,
        pad_mode=pad_mode,
        functions=functions,
    )


def as_augmentation(augmentation: Any) -> Augmentation | None:
    """Returns what `augmentation=` says as one `Augmentation`; None as it is.

    Transforms of your own come after the default `Augmentation()`, or after the one
    that begins the list.

    Raises:
        TypeError: If it is none of these.

    Example:
        >>> as_augmentation([Augmentation(flip=False), lambda image, key: image]).flip
        False
    """
    if augmentation is None or isinstance(augmentation, Augmentation):
        return augmentation
    functions = [augmentation] if callable(augmentation) else augmentation
    wanted = (
        "augmentation must be an Augmentation(...) or None, or functions of your own, "
        "(image, key) -> image, in a list that an Augmentation may begin"
    )
    if not isinstance(functions, list | tuple) or not functions:
        raise TypeError(f"{wanted}; received {described(augmentation)}.")
    first, *rest = functions
    if not isinstance(first, Augmentation):
        first, rest = Augmentation(), list(functions)
    if any(isinstance(each, Augmentation) for each in rest):
        raise TypeError(f"{wanted}; received an Augmentation that is not the first.")
    rest = as_functions(rest, "augmentation")
    return dataclasses.replace(first, functions=(*first.functions, *rest))


def as_functions(functions: Any, name: str = "functions") -> tuple[Transform, ...]:
    """Returns one or several transforms as a tuple.

    Raises:
        TypeError: If one is no function, takes other arguments, or can't be hashed.

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
    images: Float[Array, "b h w c"],
    keys: Key[Array, " b"],
    functions: Sequence[Transform],
) -> Float[Array, "b h w c"]:
    """Returns images as the transforms leave them, each with keys of its own.

    Args:
        images: Floats in 0..1, before normalisation.
        keys: One for each image.
        functions: In the order in which they are applied.

    Raises:
        TypeError: If one returns something that is no image of the same shape.
    """
    for position, function in enumerate(functions):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, _FUNCTIONS + position)

        def checked(images, key, function=function):
            result = function(images, key)
            _check_result(function, result, images)
            return jnp.asarray(result, images.dtype)

        if is_batchwise(function):
            # The key of an epoch is the same for all its batches; a photo's is not.
            images = checked(images, own[0])
        else:
            images = jax.vmap(checked)(images, own)
    return images


def check_functions(
    functions: Sequence[Transform], shape: tuple[int, int, int]
) -> None:
    """Traces transforms for images of a shape, to find what is wrong with them.

    Args:
        functions: The transforms.
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


def function_program(function: Transform, shape: tuple[int, int, int]) -> str:
    """Returns a sha256 of what a transform computes for images of a shape.

    Another transform, or the same with other values in it, has another; one that is
    written anew in the same way has the same. It depends on JAX's version.
    """
    return hashlib.sha256(_program(function, shape).encode()).hexdigest()


def _program(function: Transform, shape: tuple[int, int, int]) -> str:
    whole = (2, *shape) if is_batchwise(function) else shape
    image = jax.ShapeDtypeStruct(whole, jnp.float32)
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
            f" float32 {whole} and a key: {type(error).__name__}: {reason} It is"
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
    literals = []
    for equation in jaxpr.eqns:
        literals += [v.val for v in equation.invars if hasattr(v, "val")]
        for value in equation.params.values():
            for each in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(each, "jaxpr", each)
                if hasattr(inner, "eqns"):
                    literals += [*getattr(each, "consts", ()), *_literals(inner)]
    return literals


class _WrongResultError(TypeError):
    """What a function returns is no image as it got it."""


def _check_result(function: Transform, result: Any, image: Any) -> None:
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
