"""Grad-CAM: heat maps of the image regions that support a class.

`grad_cam` is a pure function of network state and image arrays; the rest turns its maps
into pictures of photos.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxtune.arguments import Integer, check_instance, check_integer
from jaxtune.models import call_module
from jaxtune.plots import image_grid
from jaxtune.transfer.running import children_of, listen


def grad_cam(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    model_state: nnx.State,
    images: Float[Array | np.ndarray, "b height width c"],
    *,
    layer: str = "body",
    class_index: int | Int[Array | np.ndarray, "b"] | None = None,
) -> Float[Array, "b h w"]:
    """Returns how strongly each position of a layer's output supports a class.

    The map is the ReLU of a weighted sum over the layer's channels. A channel's weight
    is the gradient of the class's logit with respect to that channel, averaged over all
    positions. The function is pure and can be jitted with `layer` static.

    Args:
        graphdef: Graph of the network in eval mode, see `evaluating` and
            `split_module`.
        params: Parameters.
        model_state: All other state of the network, such as running statistics.
        images: The network's input, resized and normalised.
        layer: Dotted name of a module with an output (b, h, w, c); the network must
            call it exactly once.
        class_index: Index of the output to explain, one for all images or one for each;
            each image's largest output if None.

    Returns:
        The maps, float32, 0 or more, not normalised, of the height and width of the
        layer's output.

    Raises:
        ValueError: If there is no such layer, it isn't called exactly once, or its
            output doesn't have four dimensions.

    References:
        Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391, equations 1, 2.
    """
    images = jnp.asarray(images)

    def run(change):
        network = nnx.merge(graphdef, params, model_state)
        layer_outputs: list[Any] = []

        def around(call, *args, **kwargs):
            layer_outputs.append(call(*args, **kwargs))
            return layer_outputs[-1] if change is None else layer_outputs[-1] + change

        listen(_module_at(network, layer), around)
        outputs = call_module(network, images)
        return outputs, _only_map(layer_outputs, layer)

    def score(change):
        outputs, features = run(change)
        chosen = outputs.argmax(-1) if class_index is None else class_index
        chosen = jnp.broadcast_to(jnp.asarray(chosen), outputs.shape[:1])
        # In eval mode rows are independent, so the sum's gradient is each row's own.
        return jnp.take_along_axis(outputs, chosen[:, None], axis=-1).sum(), features

    _, shape = jax.eval_shape(lambda: run(None))
    change = jnp.zeros(shape.shape, shape.dtype)
    gradient, features = jax.grad(score, has_aux=True)(change)
    weights = gradient.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((weights * features.astype(jnp.float32)).sum(axis=-1))


@dataclasses.dataclass(frozen=True, eq=False)
class GradCam:
    """The Grad-CAM map of one photo for one class.

    Attributes:
        photo: The network's input before normalisation, uint8 (h, w, c).
        heat: The map, float32 (h', w'), of the size of the layer's output, scaled to a
            maximum of 1; all 0 if no position supports the class.
        label: Name of the class.
        probability: Predicted probability of the class; for regression the value.
    """

    photo: np.ndarray
    heat: np.ndarray
    label: str
    probability: float

    @property
    def title(self) -> str:
        """The class and its probability."""
        return f"{self.label} {self.probability:.2f}"

    def plot(self) -> "matplotlib.figure.Figure":
        """Returns a figure of the photo beside the photo overlaid with the map.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return plot_grad_cams([self])


def plot_grad_cams(
    cams: "list[GradCam] | tuple[GradCam, ...]", *, columns: Integer = 4
) -> "matplotlib.figure.Figure":
    """Returns a figure of photos, each beside a copy overlaid with its map.

    Args:
        cams: Results of `Learner.grad_cam`.
        columns: Pictures in a row; each photo takes two.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `cams` is no list or tuple of `GradCam`.
        ValueError: If `cams` is empty, or `columns` is below 1.
    """
    check_instance(cams, "cams", (list, tuple), "a list of GradCam")
    if not cams:
        raise ValueError("cams is empty; give at least one GradCam.")
    for i, cam in enumerate(cams):
        check_instance(cam, f"cams[{i}]", GradCam, "what grad_cam gives")
    columns = check_integer(columns, "columns", least=1)
    return image_grid(
        [cam.photo for cam in cams for _ in range(2)],
        [title for cam in cams for title in ("", cam.title)],
        heat=[heat for cam in cams for heat in (None, cam.heat)],
        columns=columns,
    )


def larger_sizes(
    size: tuple[int, int], photo: tuple[int, int]
) -> list[tuple[int, int]]:
    """Returns larger image sizes to try for Grad-CAM, largest first.

    A larger image gives a finer map. The shorter side is 224 or, closer to what the
    network was trained on, twice the training size, but no longer than the photo's own:
    photos are never enlarged beyond their own resolution. Sides are rounded down to
    multiples of 32, so that few sizes need compiling.

    Args:
        size: Height and width that the network was trained on, in pixels.
        photo: Height and width of the photo, in pixels.

    Example:
        >>> larger_sizes((64, 64), (500, 333)), larger_sizes((64, 64), (120, 400))
        ([(224, 224), (128, 128)], [(96, 96)])
    """
    sizes = []
    for shorter in (224, min(224, 2 * min(size))):
        factor = min(shorter, *photo) / min(size)
        grown = [int(side * factor) // 32 * 32 for side in size]
        height, width = (max(*sides) for sides in zip(grown, size, strict=True))
        sizes.append((height, width))
    return [new for new in dict.fromkeys(sizes) if new != size]


def scale_heat(maps: Any) -> np.ndarray:
    """Returns maps (b, h, w), each divided by its maximum; all-zero maps stay zero."""
    maps = np.asarray(maps, np.float32)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


def _only_map(seen: list, layer: str):
    if len(seen) != 1:
        raise ValueError(
            f"Grad-CAM needs a layer that is called once; {layer!r} is called "
            f"{len(seen)} times. Name one inside it or around it."
        )
    shape = getattr(seen[0], "shape", None)
    if shape is None or len(shape) != 4:
        raise ValueError(
            f"Grad-CAM needs a layer whose output is a map (b, h, w, c); that of "
            f"{layer!r} is {shape}. The body's is one, and so are its children's."
        )
    return seen[0]


def _module_at(network: nnx.Module, layer: str) -> nnx.Module:
    node, left = network, layer
    while left:
        children = dict(children_of(node))
        # Items of a list have a dot in their name: "blocks.0".
        name = next((n for n in children if f"{left}.".startswith(f"{n}.")), None)
        if name is None:
            inside = layer[: len(layer) - len(left)].rstrip(".") or "the network"
            known = ", ".join(children) or "no module"
            raise ValueError(
                f"there is no layer {layer!r}: in {inside} there is {known}."
            )
        node, left = children[name], left[len(name) + 1 :]
    return node
