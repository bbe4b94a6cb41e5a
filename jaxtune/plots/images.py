"""Photos side by side with titles.

Photos are shown unchanged: values are not stretched, nothing is cropped, pixels are
square.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxtune.plots.figure import new_figure

#: In inches: a photo's longer side, the gap between photos, a line of a title.
_SIDE, _GAP, _LINE = 2.2, 0.12, 0.165
#: Characters of a title that fit in an inch.
_CHARACTERS = 13


def image_grid(
    images: Any,
    titles: Sequence[object] | None = None,
    *,
    columns: int | None = None,
    title_colors: Sequence[str] | None = None,
    heat: Any = None,
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Returns a figure of images in rows, from left to right.

    Args:
        images: (n, h, w, c) with values 0..255 (uint8) or 0..1 (floats, clipped), or
            a list of such arrays (h, w, c) or (h, w), which may differ in size. Of one
            or two channels the first is shown as grey; of more than three, the first
            three are shown.
        titles: Above each image; wrapped, not parsed as mathematics.
        columns: Images per row; about as many as there are rows if None.
        title_colors: Colour of each title, for matplotlib; black if None.
        heat: Maps (n, h', w') with values 0..1 to overlay on the images, half
            transparent, each stretched to its image's size; none if None.
        title: Above the figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no image, an image has another shape or dtype, or there
            are more or fewer titles, colours or maps than images.
    """
    photos = [_photo(image, i) for i, image in enumerate(images)]
    if not photos:
        raise ValueError("there is no image to show; give at least one.")
    titles = _as_many("titles", titles, photos)
    title_colors = _as_many("title_colors", title_colors, photos)
    heat = _as_many("heat", heat, photos)
    columns = _columns(columns, len(photos))
    shape = _cell(photos)
    wrapped = [_wrap(text, shape[1]) for text in titles or [""] * len(photos)]
    lines = max((text.count("\n") + 1 for text in wrapped if text), default=0)
    figure, cells = _cells(len(photos), columns, shape, lines, title)
    for i, (axes, photo) in enumerate(zip(cells, photos, strict=True)):
        _show(axes, photo, None if heat is None else heat[i])
        axes.set_title(
            wrapped[i],
            fontsize=9,
            color="black" if title_colors is None else title_colors[i],
            parse_math=False,
        )
    return figure


def _cells(
    count: int, columns: int, shape: tuple[float, float], lines: int, title: str
) -> tuple[Any, list]:
    """Returns an empty figure and its axes, at exact positions."""
    height, width = shape
    above = _LINE * lines + 0.08 * bool(lines) + _GAP
    rows = math.ceil(count / columns)
    whole_width = columns * (width + _GAP) + _GAP
    whole_height = rows * (height + above) + _GAP + 0.3 * bool(title)
    figure = new_figure(whole_width, whole_height)
    figure.set_layout_engine("none")
    if title:
        figure.text(
            0.5, 1 - 0.1 / whole_height, title, ha="center", va="top", parse_math=False
        )
    cells = []
    for i in range(count):
        row, column = divmod(i, columns)
        left = _GAP + column * (width + _GAP)
        bottom = _GAP + (rows - 1 - row) * (height + above)
        place = (left / whole_width, bottom / whole_height)
        size = (width / whole_width, height / whole_height)
        cells.append(figure.add_axes((*place, *size), anchor="S"))
        cells[-1].set_axis_off()
    return figure, cells


def _show(axes: Any, photo: np.ndarray, heat: Any) -> None:
    top = 255 if photo.dtype == np.uint8 else 1
    axes.imshow(photo, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    if heat is None:
        return
    height, width = photo.shape[:2]
    axes.imshow(
        np.asarray(heat).astype(np.float32),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        cmap="inferno",
        alpha=0.5,
        vmin=0.0,
        vmax=1.0,
        interpolation="bilinear",
    )


def _photo(image: Any, number: int) -> np.ndarray:
    array = np.asarray(image)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            "images must be (h, w, c) or (h, w) each, (n, h, w, c) together; received "
            f"one of shape {array.shape} at position {number}."
        )
    if array.dtype == np.bool_:
        array = array.astype(np.float32)
    if array.dtype != np.uint8:
        # Not np.floating: NumPy does not know that bfloat16 is.
        if np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                "images must be uint8 (0..255) or floats (0..1); received "
                f"{array.dtype} at position {number}."
            )
        array = np.clip(np.nan_to_num(array.astype(np.float32)), 0.0, 1.0)
    if array.ndim == 3:
        array = array[..., :3] if array.shape[-1] >= 3 else array[..., 0]
    return array


def _as_many(name: str, given: Any, photos: Sequence) -> list | None:
    if given is None:
        return None
    given = list(given)
    if len(given) != len(photos):
        raise ValueError(
            f"there must be as many {name} as images; there are {len(photos)} images "
            f"and {len(given)} {name}."
        )
    return given


def _columns(columns: int | None, count: int) -> int:
    if columns is None:
        return math.ceil(math.sqrt(count))
    if columns < 1:
        raise ValueError(f"columns must be 1 or more; received {columns}.")
    return min(columns, count)


def _cell(photos: Iterable[np.ndarray]) -> tuple[float, float]:
    """Returns height and width of a cell in inches, for the tallest photo."""
    shape = max(photo.shape[0] / photo.shape[1] for photo in photos)
    shape = min(max(shape, 0.25), 4.0)
    return _SIDE * min(1.0, shape), _SIDE * min(1.0, 1 / shape)


def _wrap(title: object, width: float) -> str:
    room = max(8, int(width * _CHARACTERS))
    lines = [textwrap.fill(line, room) for line in str(title).split("\n")]
    return "\n".join(lines)
