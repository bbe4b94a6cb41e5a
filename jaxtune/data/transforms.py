"""What is drawn for each training image, as a value: `Augmentation`.

Bounds and probabilities go in; a frozen dataclass comes out that can be hashed,
compared and written as JSON. The one rule: nothing is drawn here, and whatever no image
could be drawn from is refused here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from jaxtune.arguments import (
    Number,
    check_choice,
    check_flag,
    check_number,
    check_numbers,
)
from jaxtune.data.functions import as_functions
from jaxtune.data.resize import PadMode

# Beyond it the far corner of the tilted photo comes to lie behind the viewer.
_MAX_WARP = 0.5


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
        functions: Functions of your own, applied last, in their order: (image, key) ->
            image. Each gets one image, float32 (h, w, c) in 0..1 as the rest leaves it
            (before normalisation), and a key of the image's own, and returns floats of
            the same shape. It is made of jax.numpy and jax.random: it is vmapped, and
            compiled into the step.

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
        xtra_tfms: Functions of your own, see `Augmentation.functions`.

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
