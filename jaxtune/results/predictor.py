"""Predictions for single images with a trained network; no dataset needed.

An image is prepared exactly as validation prepares it.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.arguments import (
    Integer,
    check_choice,
    check_instance,
    check_integer,
    check_module,
    check_path,
)
from jaxtune.checkpoint import (
    find_checkpoint,
    inspect_checkpoint,
    load_checkpoint,
    load_meta,
    with_kept_thresholds,
)
from jaxtune.data import ImageError, Photos, list_photos, prepare_image
from jaxtune.data.photos import bad_photos, check_photo_type, find_bad
from jaxtune.loop.compiled_steps import CompiledSteps
from jaxtune.loop.float32 import in_float32, to_float32
from jaxtune.loop.recovery import warn_not_finite
from jaxtune.models import Sequential
from jaxtune.pretrained import ARCHITECTURES
from jaxtune.results.thresholds import (
    DEFAULT_THRESHOLD,
    as_thresholds,
    check_several,
    decode,
)
from jaxtune.train import (
    cross_entropy,
    default_activation,
    local_devices,
    split_module,
)
from jaxtune.transfer import (
    Denormalize,
    create_cnn_model,
    denormalizing,
    evaluating,
)


class Prediction(NamedTuple):
    """A network's prediction for one image.

    Attributes:
        label: Name of the most probable class. Multi-label: a tuple of the names of the
            classes above their thresholds. Regression: the number, or an array of them.
        index: Position of the class in `classes`. Multi-label: bool (num_classes,).
            Regression: None.
        probabilities: Of every class, float32 (num_classes,). Regression: the predicted
            values, float32 (k,).
    """

    label: Any
    index: Any
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are prepared for a network, and its outputs decoded.

    Attributes:
        classes: Name of each class; empty for regression.
        kind: Kind of the labels: "single", "multi" or "regression".
        size: Height and width of the network's input, in pixels.
        resize: Resize method, see `jaxtune.data.prepare_image`.
        pad_mode: How "pad" fills the border, see `jaxtune.data.prepare_image`.
        in_channels: Channels of an image.
        thresholds: Multi-label: the probability of each class above which it is
            predicted; 0.5 for all if None.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    kind: str = "single"
    resize: str | None = None
    pad_mode: str = "reflection"
    in_channels: int = 3
    thresholds: tuple[float, ...] | None = None

    @classmethod
    def of(cls, source: Any, *, thresholds: Any = None) -> "Reading":
        """Returns the reading of a dataset or of a checkpoint's metadata.

        Args:
            source: `ImageDataLoaders`, or a checkpoint's metadata (a dict).
            thresholds: Threshold of each class, or None; used for `ImageDataLoaders`
                only, as metadata has its own.
        """
        if not isinstance(source, Mapping):
            names = {f.name for f in dataclasses.fields(cls)} - {"thresholds"}
            source = {
                **{name: getattr(source, name) for name in names},
                "size": getattr(source, "valid_size", source.size),
                "thresholds": thresholds,
            }
        known = {
            f.name: source[f.name] for f in dataclasses.fields(cls) if f.name in source
        }
        height, width = known["size"]
        thresholds = known.get("thresholds")
        return cls(
            **{
                **known,
                "thresholds": None
                if thresholds is None
                else tuple(float(x) for x in thresholds),
                "classes": tuple(known["classes"]),
                "size": (int(height), int(width)),
            }
        )

    def prepare(self, item: Any) -> np.ndarray:
        """Returns an image exactly as validation sees it, uint8 (h, w, c)."""
        return prepare_image(
            item,
            self.size,
            resize=self.resize,
            pad_mode=self.pad_mode,
            channels=self.in_channels,
        )

    def answer(self, outputs: np.ndarray) -> Prediction:
        """Returns the prediction for one image's activated outputs, float32 (k,)."""
        if self.kind == "regression":
            label = float(outputs[0]) if len(outputs) == 1 else outputs
            return Prediction(label, None, outputs)
        if self.kind == "multi":
            above = decode(outputs, self.kind, self.thresholds)
            names = (n for n, yes in zip(self.classes, above, strict=True) if yes)
            return Prediction(tuple(names), above, outputs)
        index = int(outputs.argmax())
        return Prediction(self.classes[index], index, outputs)


def predict_images(
    predict_step: Callable,
    source: Any,
    *,
    reading: Reading,
    batch_size: int,
    on_error: str = "raise",
    name: str = "item",
) -> Any:
    """Returns the prediction for one photo, or a list of predictions in photo order.

    One photo is a batch of one; several are padded to batches of `batch_size`, so that
    at most two programs are compiled. Photos are read batch by batch: from an iterator,
    no more than one batch is held in memory.

    Args:
        predict_step: uint8 images (b, h, w, c) -> activated outputs (b, k).
        source: One photo or several, see `jaxtune.data.list_photos`.
        reading: How photos are prepared and outputs decoded.
        batch_size: Photos in a batch.
        on_error: How to treat a photo that can't be read: "raise" an error that names
            it, or "skip" it, which puts None in its place and warns.
        name: Name of the argument that holds the photos, for errors.

    Raises:
        jaxtune.data.ImageError: If a photo can't be read.
        FileNotFoundError: If a file or folder doesn't exist, or a glob matches nothing.
        TypeError: If the source is, or contains, anything but photos.
        ValueError: If `on_error` is neither "raise" nor "skip".
    """
    check_choice(on_error, "on_error", ("raise", "skip"))
    photos = list_photos(source, name, channels=reading.in_channels)
    readable = _Readable(photos, reading, on_error == "skip", name)
    predictions: dict[int, Prediction] = {}
    num_not_finite = 0
    for numbers, images in readable.batches(batch_size):
        rows = batch_size if readable.count > 1 else 1
        padding = [np.zeros_like(images[0])] * (rows - len(images))
        outputs = np.asarray(predict_step(np.stack(images + padding)))
        predictions.update(zip(numbers, map(reading.answer, outputs), strict=False))
        num_not_finite += int((~np.isfinite(outputs[: len(images)])).any(axis=1).sum())
    readable.warn()
    warn_not_finite(num_not_finite, len(predictions))
    if photos.alone:
        return predictions.get(0)
    return [predictions.get(i) for i in range(readable.count)]


class _Readable:
    """Prepares photos batch by batch, and collects those that can't be read.

    Attributes:
        count: Number of photos so far, readable or not.
    """

    def __init__(self, photos: Photos, reading: Reading, skips: bool, name: str):
        self._photos, self._reading = photos, reading
        self._skips, self._name = skips, name
        self.count = 0
        self._bad: dict[int, Exception] = {}
        if isinstance(photos.each, Sequence) and not photos.alone:
            self._bad = find_bad(photos.each)
            if self._bad and not skips:
                raise bad_photos(
                    self._bad,
                    len(photos.each),
                    name,
                    'Nothing was computed; on_error="skip" gives None for {them}.',
                )

    def batches(self, size: int) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Yields positions and prepared photos, `size` at a time."""
        numbers: list[int] = []
        images: list[np.ndarray] = []
        for number, photo in enumerate(self._photos.each):
            self.count = number + 1
            if number in self._bad or (image := self._prepared(number, photo)) is None:
                continue
            numbers.append(number)
            images.append(image)
            if len(images) == size:
                yield numbers, images
                numbers, images = [], []
        if images:
            yield numbers, images

    def warn(self) -> None:
        """Warns of the photos that could not be read, by name."""
        if self._bad:
            way_out = "None stands for {them}."
            error = bad_photos(self._bad, self.count, self._name, way_out)
            warnings.warn(str(error), stacklevel=4)

    def _prepared(self, number: int, photo: Any) -> np.ndarray | None:
        try:
            check_photo_type(photo)
            return self._reading.prepare(photo)
        except (ImageError, OSError, TypeError) as error:
            if self._skips:
                self._bad[number] = error
                return None
            if self._photos.alone:
                raise  # A single photo needs no position in the message.
            way_out = 'on_error="skip" gives None for such a photo.'
            raise bad_photos({number: error}, None, self._name, way_out) from error


class Predictor:
    """A network restored for inference, with its classes and image preparation.

    It is thread-safe, and can be copied or pickled to another process, which compiles
    its own programs. Unpickle only what you trust; to store a network, use
    `Learner.save`.

    Attributes:
        module: The network, in eval mode.
        classes: Name of each class; empty for regression.
        kind: Kind of the labels: "single", "multi" or "regression".
        meta: The checkpoint's metadata.
    """

    def __init__(self, module: nnx.Module, meta: dict, *, batch_size: Integer = 32):
        """Takes a network and the metadata that was saved with it.

        Args:
            module: The network, body and head.
            meta: Metadata of its checkpoint, from `load_meta`.
            batch_size: Photos in a batch.

        Raises:
            TypeError: If the module is no NNX module, or the metadata no dict.
            ValueError: If the metadata is incomplete, or `batch_size` is below 1.
        """
        check_instance(module, "module", nnx.Module, "an NNX module")
        check_instance(meta, "meta", Mapping, "the dict that load_meta gives")
        missing = {"classes", "size", "mean", "std"} - set(meta)
        if missing:
            raise ValueError(
                f"meta has no {', '.join(sorted(missing))}; load_meta(path) of what "
                "Learner.save wrote has all of it."
            )
        self._batch_size = check_integer(batch_size, "batch_size", least=1)
        self.module = evaluating(module)
        self.meta = meta
        self._reading = Reading.of(meta)
        self.classes, self.kind = self._reading.classes, self._reading.kind
        programs = CompiledSteps(
            size=self._reading.size,
            augmentation=None,
            activation=default_activation(self._reading.kind),
            loss=cross_entropy,
            metrics={},
            mean=meta["mean"],
            std=meta["std"],
        )
        graphdef, params, model_state = split_module(self.module)
        step = programs.predict_step(graphdef)
        self._step = lambda images: step(params, model_state, images)
        self._programs = programs
        self._from_meta = False

    @property
    def thresholds(self) -> np.ndarray | None:
        """Multi-label: threshold of each class, float32 (c,); None for other labels.

        They can be assigned, see `Learner.thresholds`.
        """
        if self.kind != "multi":
            return None
        chosen = self._reading.thresholds
        given = DEFAULT_THRESHOLD if chosen is None else list(chosen)
        return as_thresholds(given, self.classes)

    @thresholds.setter
    def thresholds(self, value: Any) -> None:
        chosen = None
        if value is not None:
            check_several(self.kind)
            chosen = tuple(as_thresholds(value, self.classes).tolist())
        self._reading = dataclasses.replace(self._reading, thresholds=chosen)

    def predict(self, item: Any, *, on_error: str = "raise") -> Any:
        """Predicts the label of one photo or of several; see `Learner.predict`."""
        with self._programs.device_errors():
            return predict_images(
                self._step,
                item,
                reading=self._reading,
                batch_size=self._batch_size,
                on_error=on_error,
            )

    def __reduce__(self):
        """Returns arrays and plain values, from which unpickling rebuilds it."""
        graphdef, *trees = split_module(self.module)
        thresholds = self._reading.thresholds
        return _rebuilt, (
            {**self.meta, "thresholds": thresholds and list(thresholds)},
            self._batch_size,
            None if self._from_meta else graphdef,
            *(jax.tree.map(_packed, nnx.to_pure_dict(tree)) for tree in trees),
        )


class _Key(NamedTuple):
    """A random key in picklable form."""

    data: np.ndarray
    implementation: str


def _packed(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _Key(np.array(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf)))
    return np.array(leaf)


def _unpacked(leaf: Any) -> jax.Array:
    if isinstance(leaf, _Key):
        return jax.random.wrap_key_data(leaf.data, impl=leaf.implementation)
    return jnp.asarray(leaf)


@in_float32
def _rebuilt(
    meta: dict,
    batch_size: int,
    graphdef: nnx.GraphDef | None,
    params: dict,
    model_state: dict,
) -> Predictor:
    """A predictor whose network is built from `meta`, unless its graph is given."""
    from_meta = graphdef is None
    if from_meta:
        graphdef = nnx.graphdef(_build(meta))
    trees = [
        nnx.State(jax.tree.map(_unpacked, tree, is_leaf=lambda x: isinstance(x, _Key)))
        for tree in (params, model_state)
    ]
    predictor = Predictor(nnx.merge(graphdef, *trees), meta, batch_size=batch_size)
    predictor._from_meta = from_meta
    return predictor


def load_predictor(
    path: str | os.PathLike,
    *,
    module: nnx.Module | None = None,
    which: Literal["latest", "best"] = "latest",
) -> Predictor:
    """Returns a predictor from a checkpoint of `Learner.save`, or from a run.

    Args:
        path: The folder of a checkpoint or of a run.
        module: The network (body and head); if None it is built from the checkpoint's
            metadata, which works for registered architectures with jaxtune's heads.
        which: Which of a run's checkpoints: the latest, or the one with the lowest
            validation loss.

    Raises:
        TypeError: If an argument is of another type.
        FileNotFoundError: If there is no checkpoint at the path.
        ValueError: If the network can't be built from the metadata, the arrays don't
            fit it, or `which` is "best" and the path is not a run.
        DeviceError: If JAX has no device, or none of those that `JAX_PLATFORMS` names.
    """
    check_path(path, "path")
    if module is not None:
        check_module(module, "module")
    check_choice(which, "which", ("latest", "best"))
    local_devices()
    checkpoint = find_checkpoint(path, which)
    meta = with_kept_thresholds(load_meta(checkpoint), path)
    predictor = Predictor(load_network(checkpoint, meta, module), meta)
    predictor._from_meta = module is None
    return predictor


@in_float32
def load_network(
    path: str | os.PathLike, meta: Mapping[str, Any], module: nnx.Module | None = None
) -> nnx.Module:
    """Returns a checkpoint's network with its weights and statistics.

    Args:
        path: The folder of a checkpoint.
        meta: The checkpoint's metadata.
        module: The network, body and head, whose values are replaced; built from the
            metadata if None.

    Raises:
        ValueError: If the network can't be built from the metadata, or the arrays don't
            fit it.
    """
    if module is not None:
        to_float32(module)
        module = _with_scale(module, path, meta)
    graphdef, params, model_state = split_module(
        _build(meta) if module is None else module
    )
    values = load_checkpoint(path, params=params, model_state=model_state)
    return nnx.merge(graphdef, *values)


def _with_scale(
    module: nnx.Module, path: str | os.PathLike, meta: Mapping[str, Any]
) -> nnx.Module:
    """A regression network, with a `Denormalize` layer added if the saved one has it.

    The caller who rebuilds the network need not know the mean and scale of the targets.
    """
    if meta.get("kind") != "regression" or denormalizing(module) is not None:
        return module
    whole = isinstance(module, Sequential) and len(module) == 2
    if not whole or not isinstance(module[1], Sequential):
        return module
    if not any("denormalize" in name for name in inspect_checkpoint(path).leaves):
        return module
    outputs = meta["num_outputs"]
    scale = Denormalize([0.0] * outputs, [1.0] * outputs)
    layers = {name: module[1][name] for name in module[1].names}
    head = Sequential({**layers, "denormalize": scale})
    return Sequential(dict(zip(module.names, (module[0], head), strict=True)))


def _build(meta: Mapping[str, Any]) -> nnx.Module:
    recipe = meta.get("network")
    if recipe and recipe["arch"] not in ARCHITECTURES:
        raise ValueError(
            f"this checkpoint's network is {recipe['arch']!r}, which is not "
            f"registered here. Call register_model({recipe['arch']!r}, ...) before, or "
            "build the network and hand it over as module=."
        )
    if not recipe:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(
            "this checkpoint doesn't say how to build its network (a body or head of "
            "one's own); build it and hand it over as module=. Built without help are "
            f"{known}."
        )
    return nnx.eval_shape(
        lambda: create_cnn_model(
            ARCHITECTURES[recipe["arch"]],
            meta.get("num_outputs", len(meta["classes"])),
            pretrained=False,
            cut=recipe["cut"],
            in_channels=recipe["in_channels"],
            **recipe["head"],
        )
    )


def describe(
    *,
    network: dict | None,
    data: Any,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    training: Mapping[str, Any] | None = None,
    thresholds: Any = None,
) -> dict:
    """Returns a checkpoint's metadata, all of it plain JSON.

    Args:
        network: How the network was built, or None.
        data: `ImageDataLoaders`: classes, kind of labels, image preparation.
        mean: Mean of each channel, for images in 0..1, or None.
        std: Standard deviation of each channel, or None.
        training: Layer groups, loss, metrics and other training settings, needed to go
            on training with more photos or classes.
        thresholds: Multi-label: threshold of each class, if they were chosen.
    """
    return {
        "format": "jaxtune/1",
        "jax": jax.__version__,
        "network": network,
        **dataclasses.asdict(Reading.of(data, thresholds=thresholds)),
        "num_outputs": data.num_outputs,
        "mean": None if mean is None else [float(x) for x in mean],
        "std": None if std is None else [float(x) for x in std],
        "training": None if training is None else dict(training),
    }
