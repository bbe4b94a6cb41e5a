"""Grad-CAM: where in an image a network sees what it says.

A split network and images in, a map for each image out. The one rule of the file: the
pure function knows nothing of photos and classes' names; the rest is pictures.
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
    """Returns how much each place of a layer's output speaks for a class.

    The layer's channels are added up, each weighted by the mean over all places of the
    derivative of the class's output (before the softmax) by that channel; what is
    negative, and so speaks against the class, becomes 0. Pure; it can be jitted with
    `layer` static.

    Args:
        graphdef: Of the network in eval mode, see `evaluating` and `split_module`.
        params: Parameters.
        model_state: Everything else the network holds.
        images: As the network takes them, prepared and normalised.
        layer: Dotted name of the module whose output is looked at, (b, h, w, c); it
            must be called once.
        class_index: Which output is explained, one for all images or one each; each
            image's largest if None.

    Returns:
        Not scaled, 0 or more, float32, of the height and width of the layer's output.

    Raises:
        ValueError: If there is no such layer, it isn't called exactly once, or its
            output is no map.

    References:
        Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391, equations 1, 2.
    """
    images = jnp.asarray(images)

    def run(change):
        network = nnx.merge(graphdef, params, model_state)
        seen: list[Any] = []

        def around(call, *args, **kwargs):
            seen.append(call(*args, **kwargs))
            return seen[-1] if change is None else seen[-1] + change

        listen(_module_at(network, layer), around)
        outputs = call_module(network, images)
        return outputs, _only_map(seen, layer)

    def score(change):
        outputs, features = run(change)
        chosen = outputs.argmax(-1) if class_index is None else class_index
        chosen = jnp.broadcast_to(jnp.asarray(chosen), outputs.shape[:1])
        # Rows don't know of each other in eval mode: one gradient serves all.
        return jnp.take_along_axis(outputs, chosen[:, None], axis=-1).sum(), features

    _, shape = jax.eval_shape(lambda: run(None))
    change = jnp.zeros(shape.shape, shape.dtype)
    gradient, features = jax.grad(score, has_aux=True)(change)
    weights = gradient.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((weights * features.astype(jnp.float32)).sum(axis=-1))


@dataclasses.dataclass(frozen=True, eq=False)
class GradCam:
    """Where in a photo a network sees a class.

    Attributes:
        photo: As the network looked at it, before normalisation: uint8 (h, w, c).
        heat: (h', w') of the layer's output, the highest place 1; all 0 where nothing
            speaks for the class.
        label: Name of the class.
        probability: That the network gives it; for regression the value.
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
        """Returns a figure of the photo, and of the photo with the heat over it.

        Raises:
            ImportError: If matplotlib is not there.
        """
        return plot_grad_cams([self])


def plot_grad_cams(
    cams: "list[GradCam] | tuple[GradCam, ...]", *, columns: Integer = 4
) -> "matplotlib.figure.Figure":
    """Returns a figure of photos, each beside itself with the heat over it.

    Args:
        cams: What `Learner.grad_cam` gives.
        columns: Pictures in a row, two for each photo.

    Raises:
        ImportError: If matplotlib is not there.
        TypeError: If they are something else.
        ValueError: If there are none, or `columns` is below 1.
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
    """Returns heights and widths at which a photo may be looked at, largest first.

    The shorter side is 224, or else twice what the network was trained on, from which
    what it has learnt is less far; in a photo that is not so large, which is never
    enlarged, sides are multiples of 32, so that few sizes need a program.

    Args:
        size: Height and width that the network was trained on, in pixels.
        photo: Those of the photo.

    Example:
        >>> larger_sizes((64, 64), (500, 333)), larger_sizes((64, 64), (120, 400))
        ([(224, 224), (128, 128)], [(96, 96)])
    """
    found = []
    for shorter in (224, min(224, 2 * min(size))):
        factor = min(shorter, *photo) / min(size)
        grown = [int(side * factor) // 32 * 32 for side in size]
        height, width = (max(*sides) for sides in zip(grown, size, strict=True))
        found.append((height, width))
    return [new for new in dict.fromkeys(found) if new != size]


def scale_heat(maps: Any) -> np.ndarray:
    """Returns maps (b, h, w) divided by the highest value of each; zeros stay zeros."""
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
        # A list's items have a dot in their name: "blocks.0".
        name = next((n for n in children if f"{left}.".startswith(f"{n}.")), None)
        if name is None:
            inside = layer[: len(layer) - len(left)].rstrip(".") or "the network"
            known = ", ".join(children) or "no module"
            raise ValueError(
                f"there is no layer {layer!r}: in {inside} there is {known}."
            )
        node, left = children[name], left[len(name) + 1 :]
    return node
