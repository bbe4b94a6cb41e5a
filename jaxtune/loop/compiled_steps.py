"""Compiled steps, which check the device's memory before they run.

A program that can't fit is refused before its arguments are handed over, so no donated
state is lost.
"""

import contextlib
import copy
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxtune.data import (
    Augmentation,
    Mixing,
    training_images,
    validation_images,
)
from jaxtune.inspect.gradcam import grad_cam
from jaxtune.loop.float32 import in_float32
from jaxtune.loop.memory import MemoryNeed, check_fits, device_errors, memory_limit
from jaxtune.loop.run_description import name_of
from jaxtune.loop.sharding import real_rows
from jaxtune.train import (
    Metric,
    TrainState,
    apply_body,
    apply_head,
    apply_module,
    compile_step,
    fsdp_apply,
    fsdp_step,
    local_devices,
    make_eval_step,
    make_predict_step,
    make_train_step,
    row_values,
    split_state,
)

#: Python traces one step at a time: the one that is needed first is ready first.
_TRACING = threading.Lock()


class CompiledStep:
    """A step under `jax.jit`, called like the step; always in float32."""

    def __init__(
        self,
        jitted: Callable,
        task: str,
        batch: int,
        *,
        note: Callable[[MemoryNeed], None],
        accumulation: int | None = None,
    ):
        """Takes the step; nothing is compiled yet.

        Args:
            jitted: What `jax.jit` returns.
            task: What it does, in words, such as "a train step".
            batch: Position of the batch, an array or a dict, among its arguments.
            note: Called at each call with the memory that the program needs.
            accumulation: Batches per update, if it trains.
        """
        self._jitted, self._task, self._batch = jitted, task, batch
        self._note, self._accumulation = note, accumulation
        self._needs: dict[tuple, MemoryNeed] = {}
        self._compiled = 0
        self._compiling = threading.Lock()

    @property
    def __wrapped__(self) -> Callable:
        """The step itself, a pure function: for `jax.export`, or other options."""
        return self._jitted.__wrapped__

    @property
    def count(self) -> int:
        """Number of programs that have run so far, one per shapes and dtypes."""
        return max(len(self._needs), self._compiled)

    @in_float32
    def __call__(self, *arguments: Any) -> Any:
        """Returns what the step returns.

        Raises:
            OutOfMemoryError: If the program can't fit; no argument was donated then.
        """
        batch = jax.tree.leaves(arguments[self._batch])
        form = tuple((leaf.shape, leaf.dtype) for leaf in batch)
        if form not in self._needs and not jax.config.jax_disable_jit:
            self._needs[form] = self._look_ahead(arguments, batch)
        if form in self._needs:
            self._note(self._needs[form])
        before = self._jitted._cache_size()
        results = self._jitted(*arguments)
        self._compiled += self._jitted._cache_size() - before
        return results

    @in_float32
    def compile(self, *forms: Any) -> None:
        """Compiles the step for arguments of these shapes and dtypes; runs nothing.

        A call from another thread meanwhile waits for the program.
        """
        with self._compiling:
            with _TRACING:
                lowered = self._jitted.lower(*forms)
            lowered.compile()

    @in_float32
    def memory_need(self, *forms: Any) -> MemoryNeed:
        """Compiles the step, likewise; returns the memory that it needs.

        Raises:
            OutOfMemoryError: If the device has less.
        """
        return self._look_ahead(forms, jax.tree.leaves(forms[self._batch]))

    def _look_ahead(self, arguments: tuple, batch: list) -> MemoryNeed:
        """The memory it needs. JAX caches the program: the call compiles nothing."""
        placed = (getattr(x, "sharding", None) for x in jax.tree.leaves(arguments))
        sets = (sharding.device_set for sharding in placed if sharding is not None)
        everywhere = sorted(next(sets, local_devices()[:1]), key=lambda one: one.id)
        here = jax.process_index()
        devices = [one for one in everywhere if one.process_index == here]
        need = MemoryNeed(
            self._task,
            rows=len(batch[0]),
            device=devices[0],
            devices=len(everywhere),
            accumulation=self._accumulation,
        )
        # If the compiler itself runs out of memory, the message can say this much.
        self._note(need)
        with self._compiling:
            analysis = self._jitted.lower(*arguments).compile().memory_analysis()
        need = need.measured(analysis, sum(map(_bytes_of_one, batch)))
        check_fits(need, memory_limit(need.device))
        return need


def _bytes_of_one(leaf: Any) -> int:
    """Bytes of an array on one of its devices."""
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


#: Packages whose functions always compute the same. Functions of a user's may read what
#: has changed since they were compiled, so programs with them aren't shared.
_UNCHANGING = {"builtins", "flax", "jax", "jaxtune", "numpy", "optax"}


def _is_unchanging(value: Any) -> bool:
    """Whether what equals a value is compiled to the same program."""
    if isinstance(value, nnx.GraphDef):
        types = [getattr(node, "type", None) for node in value.nodes]
        held = [getattr(attribute, "value", None) for _, attribute in value.attributes]
        return _is_unchanging((*types, *held))
    if isinstance(value, tuple | frozenset):
        return all(map(_is_unchanging, value))
    if isinstance(value, Mapping):
        return all(map(_is_unchanging, value.items()))
    if value is None or isinstance(value, bool | int | float | str | np.dtype):
        return True
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        can_be_a_key = type(value).__hash__ is not None
        return can_be_a_key and _is_unchanging((type(value), *fields))
    package = (getattr(value, "__module__", None) or "").partition(".")[0]
    return callable(value) and package in _UNCHANGING


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """What makes a step. Equal ones make the same, whoever asks for it."""

    settings: tuple
    key: tuple
    make: Callable = dataclasses.field(compare=False)
    compile: Callable = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=64)
def _shared(recipe: _Recipe) -> Callable:
    """The jitted step of a recipe: learners with equal ones compile it once."""
    return recipe.compile(recipe.make())


class CompiledSteps:
    """Compiled train, eval and predict steps; photos are prepared on the device.

    In a process, what is made from jaxtune's own networks and functions is traced and
    compiled once for all learners with the same settings.

    Attributes:
        loss: (logits, label) -> a value for each row.
        objective: Minimised instead of the loss, or None.
        metrics: Metrics by name: functions like the loss, or epoch metrics.
        mixing: `MixUp` or `CutMix` of training batches, or None.
        accumulation: Batches per update, for the advice of memory errors.
        mean: Of each channel, for images in 0..1, or None.
        std: Of each channel, or None.
        newest: Memory that the last called program needs; None before the first call.
        most: Bytes that the largest program so far needs of a device.
        before_call: Called with the memory that a program needs, before it runs; or
            None.
    """

    newest: MemoryNeed | None = None
    most: int = 0
    before_call: Callable[[MemoryNeed], None] | None = None

    def __init__(
        self,
        *,
        size: tuple[int, int],
        augmentation: Augmentation | None,
        loss: Callable,
        objective: Callable | None = None,
        metrics: Mapping[str, Metric],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        activation: Callable = jax.nn.softmax,
        mixing: Mixing | None = None,
        gradient_accumulation_steps: int = 1,
    ):
        """Takes what all programs share; nothing is compiled yet.

        Args:
            size: Height and width of the network's images, in pixels.
            augmentation: Of training images; none if None.
            loss: (logits, label) -> a value for each row.
            objective: Minimised instead of the loss, see `make_train_step`; or None.
            metrics: Metrics by name: functions like the loss, or epoch metrics.
            mean: Of each channel, for images in 0..1; no normalisation if None.
            std: Of each channel.
            activation: logits (b, c) -> probabilities (b, c).
            mixing: `MixUp` or `CutMix` of training batches, or None.
            gradient_accumulation_steps: Batches per update; a memory error advises
                more of them.
        """
        self.metrics = dict(metrics)
        self._activation = activation
        self.mixing = mixing
        self.accumulation = gradient_accumulation_steps
        self._size = size
        self._augmentation = augmentation
        self.loss, self.objective = loss, objective
        self.mean, self.std = mean, std
        self._steps: dict = {}
        self._halves: dict = {}

    def for_data(
        self,
        data: Any,
        *,
        loss: Callable | None = None,
        objective: Callable | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> "CompiledSteps":
        """Returns the same programs for other data; nothing is compiled yet.

        Args:
            data: `ImageDataLoaders`, with the same kind of labels.
            loss: The new loss; the present one if None.
            objective: Minimised instead of the new loss, or None.
            metrics: The new metrics; the present ones if None.
        """
        other = copy.copy(self)
        other._size, other._augmentation = data.size, data.augmentation
        if loss is not None:
            other.loss, other.objective = loss, objective
        if metrics is not None:
            other.metrics = dict(metrics)
        other._steps, other._halves, other.newest = {}, {}, None
        return other

    def __deepcopy__(self, memo: dict) -> "CompiledSteps":
        """Returns a copy that shares the programs compiled so far."""
        other = copy.copy(self)
        other._steps, other._halves = dict(self._steps), dict(self._halves)
        return other

    def fit_data(self, data: Any) -> bool:
        """Returns whether these programs also work for other data, at any batch size.

        Args:
            data: `ImageDataLoaders`.
        """
        return (data.size, data.augmentation) == (self._size, self._augmentation)

    def changed(self, *programs: str, **attributes: Any) -> "CompiledSteps":
        """Returns a copy with other attributes; the named programs are recompiled.

        Args:
            *programs: Those that use the attributes: "train", "eval", "answer", "loss"
                and so on. The others are kept.
            **attributes: `loss`, `objective`, `metrics`, `mixing` or `accumulation`.
        """
        other = copy.copy(self)
        vars(other).update(attributes)
        other._steps = {
            key: step for key, step in self._steps.items() if key[0] not in programs
        }
        other._halves = dict(self._halves)
        return other

    @property
    def count(self) -> int:
        """Number of programs that have run so far."""
        return sum(step.count for step in self._steps.values())

    def describe(self) -> dict[str, Any]:
        """Returns the settings that change a run's results, except augmentation."""
        return {
            "loss": name_of(self.loss),
            "mixing": _mixing_name(self.mixing),
            "metrics": [name_of(metric) for metric in self.metrics.values()],
            "mean": None if self.mean is None else [float(x) for x in self.mean],
            "std": None if self.std is None else [float(x) for x in self.std],
        }

    def train_step(
        self,
        graphdef: nnx.GraphDef,
        tx: optax.GradientTransformation,
        labels: nnx.State,
        *,
        optimizer: Hashable,
        features: bool = False,
        split_over: Mesh | None = None,
    ) -> CompiledStep:
        """Returns the compiled train step of a network.

        The first `tx` given with a graph, labels and `optimizer` is compiled in and
        serves all later calls, so the step must not depend on its rates or schedule:
        these are read from the optimizer's state.

        Args:
            graphdef: Of the network in training mode.
            tx: The optimizer.
            labels: Layer group of each parameter, `FROZEN` for those that don't train.
            optimizer: Everything else of which `tx` was made, in a form that can be
                compared.
            features: Whether the batches hold the body's features instead of photos.
            split_over: Devices over which the state is split, see `fsdp_shardings`;
                None if it is whole on each.
        """

        def make() -> Callable:
            apply = apply_head if features else apply_module
            step = make_train_step(
                graphdef,
                tx,
                loss=self.loss,
                objective=self.objective,
                labels=labels,
                prepare=_features if features else self._augmented,
                apply=apply if split_over is None else fsdp_apply(apply, split_over),
                mixing=self.mixing,
            )
            return step if split_over is None else fsdp_step(step, split_over, labels)

        settings = tuple(jax.tree.leaves(labels)), optimizer, features
        return self._made(
            ("train", graphdef, *settings, _device_ids(split_over)),
            make,
            "a train step",
            batch=1,
            donate=True,
        )

    def first_state(
        self,
        graphdef: nnx.GraphDef,
        labels: nnx.State,
        make: Callable[..., TrainState],
        *,
        optimizer: Hashable,
        split_over: Mesh | None = None,
    ) -> Callable[..., TrainState]:
        """Returns what makes a network's first train state, as one program.

        Array by array it would be a small program for each shape.

        Args:
            graphdef: Of the network in training mode.
            labels: Layer group of each parameter, `FROZEN` for those that don't train.
            make: (params, model_state, numbers) -> the state. As in `train_step`, the
                first one serves all later calls.
            optimizer: Everything else on which it depends, in a form that can be
                compared.
            split_over: As in `train_step`.
        """

        def made(*given) -> TrainState:
            state = make(*given)
            if split_over is None:
                return state
            return split_state(state, split_over, labels)

        settings = tuple(jax.tree.leaves(labels)), optimizer, _device_ids(split_over)
        key = _as_key(("state", graphdef, *settings))
        if key not in self._halves:
            shared = _shared if _is_unchanging(key) else _shared.__wrapped__
            self._halves[key] = shared(_Recipe((), key, lambda: made, jax.jit))
        return self._halves[key]

    def eval_step(
        self, graphdef: nnx.GraphDef, *, features: bool = False
    ) -> CompiledStep:
        """Returns the compiled eval step of a network in eval mode.

        Args:
            graphdef: Of the network in eval mode.
            features: Whether the batches hold the body's features instead of photos.
        """

        def plain(batch):
            return real_rows(batch) if features else self._plain(real_rows(batch))

        return self._made(
            ("eval", graphdef, features),
            lambda: make_eval_step(
                graphdef,
                loss=self.loss,
                metrics=self.metrics,
                prepare=plain,
                apply=apply_head if features else apply_module,
            ),
            "validation",
            batch=2,
        )

    def features_step(self, graphdef: nnx.GraphDef, *, augmented: bool) -> CompiledStep:
        """Returns the compiled step that gives a body's features for photos.

        It maps (params, model_state, batch, key) to features (b, ...). The key is that
        of a train step, whose augmentation is drawn then.

        Args:
            graphdef: Of the network in eval mode, see `apply_body`.
            augmented: Whether photos are augmented as in training.
        """

        def body_features(params, model_state, batch, key):
            if augmented:
                images = self._augmented(batch, jax.random.split(key)[0])
            else:
                images = self._plain(real_rows(batch))
            return apply_body(graphdef, params, model_state, images)[0]

        key = ("features", graphdef, augmented)
        return self._made(key, lambda: body_features, "computing features", batch=2)

    def answer_step(self, graphdef: nnx.GraphDef) -> CompiledStep:
        """Returns the compiled step that gives a network's outputs for photos.

        Args:
            graphdef: Of the network in eval mode.

        Returns:
            (params, model_state, images uint8 (b, h, w, c)) -> the network's outputs
            (b, k), and the same after the activation in float32.
        """
        return self._made(
            ("answer", graphdef),
            lambda: make_predict_step(
                graphdef,
                activation=lambda outputs: (outputs, self._activated(outputs)),
                prepare=self._plain,
            ),
            "prediction",
            batch=2,
        )

    def predict_step(self, graphdef: nnx.GraphDef) -> Callable:
        """Returns the activated half of `answer_step`; it is the same program."""
        key, answer = _as_key(("predict", graphdef)), self.answer_step(graphdef)
        return self._halves.setdefault(key, lambda *given: answer(*given)[1])

    def augmented_step(self, graphdef: nnx.GraphDef) -> CompiledStep:
        """Returns the compiled predict step for photos augmented as in training.

        It maps (params, model_state, batch, key) to activated outputs (b, k).
        """

        def augmented(params, model_state, batch, key):
            images = self._augmented(batch, key)
            outputs, _ = apply_module(graphdef, params, model_state, images)
            return self._activated(outputs)

        key = ("augmented", graphdef)
        return self._made(key, lambda: augmented, "prediction", batch=2)

    def loss_step(self) -> CompiledStep:
        """Returns the compiled loss: (outputs, label) -> a value for each row."""

        def losses(outputs, label):
            return row_values(self.loss, outputs[: len(label)], label, role="loss")

        return self._made(("loss",), lambda: losses, "the loss", batch=0)

    def heat_step(self, graphdef: nnx.GraphDef, layer: str) -> CompiledStep:
        """Returns the compiled `grad_cam` of a network in eval mode.

        It maps (params, model_state, images uint8 (b, h, w, c), class numbers (b,)) to
        maps (b, h', w') of the layer's output.
        """

        def heat(params, model_state, images, index):
            images = self._plain(images)
            explain = functools.partial(grad_cam, layer=layer, class_index=index)
            return explain(graphdef, params, model_state, images)

        key = ("heat", graphdef, layer)
        return self._made(key, lambda: heat, "Grad-CAM", batch=2)

    def device_errors(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context that turns memory errors into `OutOfMemoryError`.

        See `jaxtune.loop.memory.device_errors`.
        """
        return device_errors(lambda: self.newest)

    def _made(
        self,
        key: tuple,
        make: Callable,
        task: str,
        *,
        batch: int,
        donate: bool = False,
    ) -> CompiledStep:
        key = _as_key(key)
        if key not in self._steps:
            compiled = functools.partial(compile_step, donate=donate)
            recipe = _Recipe(self._settings(), key, make, compiled)
            shared = _is_unchanging((recipe.settings, key))
            self._steps[key] = CompiledStep(
                (_shared if shared else _shared.__wrapped__)(recipe),
                task,
                batch,
                note=self._note,
                accumulation=self.accumulation if donate else None,
            )
        return self._steps[key]

    def _settings(self) -> tuple:
        """All that a step depends on besides its key."""
        return (
            self._size,
            self._augmentation,
            self._activation,
            self.loss,
            self.objective,
            tuple(self.metrics.items()),
            self.mixing,
            self.mean,
            self.std,
        )

    def _note(self, need: MemoryNeed) -> None:
        self.newest = need
        self.most = max(self.most, need.total or 0)
        if self.before_call is not None:
            self.before_call(need)

    def _augmented(self, batch: Mapping, key: jax.Array) -> jax.Array:
        return training_images(
            {**batch, "image": real_rows(batch)},
            key,
            size=self._size,
            augmentation=self._augmentation,
            mean=self.mean,
            std=self.std,
        )

    def _activated(self, outputs: jax.Array) -> jax.Array:
        return self._activation(outputs.astype(jnp.float32))

    def _plain(self, images: jax.Array) -> jax.Array:
        return validation_images(images, mean=self.mean, std=self.std)


def _features(batch: Mapping, key: jax.Array) -> jax.Array:
    return real_rows(batch)


def _device_ids(mesh: Mesh | None) -> tuple[int, ...] | None:
    return None if mesh is None else tuple(each.id for each in mesh.devices.flat)


class _Compared:
    """A cache key for parts that can't be hashed, such as a module with plain dicts."""

    def __init__(self, parts: tuple):
        self.parts = parts

    def __getitem__(self, index: int) -> Any:
        return self.parts[index]

    def __hash__(self) -> int:
        return hash(self.parts[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Compared) and self.parts == other.parts


def _as_key(parts: tuple) -> object:
    try:
        hash(parts)
    except TypeError:
        return _Compared(parts)
    return parts


def _mixing_name(mixing: Mixing | None) -> str | None:
    if mixing is None or dataclasses.is_dataclass(mixing):
        return None if mixing is None else repr(mixing)
    return name_of(mixing)
