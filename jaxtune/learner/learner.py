"""The learner: a network, data and a phase, held together.

The one rule of the file: `Learner` only holds state and calls public pure functions;
whatever it does can be done without it.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.data import augment, normalize, per_image_keys, to_float
from jaxtune.learner.devices import data_sharding, place_batch
from jaxtune.learner.history import History
from jaxtune.learner.loop import Running, evaluate, run_epochs
from jaxtune.learner.progress import Reporter
from jaxtune.train import (
    FROZEN,
    Metric,
    Norms,
    Optimizer,
    Schedule,
    TrainState,
    adam,
    boundary_index,
    check_norms,
    compile_step,
    constant,
    cross_entropy,
    enable_compilation_cache,
    group_optimizer,
    make_eval_step,
    make_predict_step,
    make_train_step,
    named_metrics,
    no_decay_paths,
    norm_paths,
    one_cycle,
    optimizer_labels,
    resolve_rates,
    restart_schedule,
    split_module,
    training_view,
)
from jaxtune.transfer import Groups, default_groups, evaluating, group_labels
from jaxtune.transfer import split_groups as groups_from_splitter

Rates = float | slice | Sequence[float]


class Prediction(NamedTuple):
    """What a network says of one image.

    Attributes:
        label: Name of the most probable class.
        index: Its position in `classes`.
        probabilities: Of every class, float32 (num_classes,).
    """

    label: str
    index: int
    probabilities: np.ndarray


class Learner:
    """A network with its data, its layer groups and the phase it is in.

    Between two fits the modules hold the values: `learner.model` can be looked at,
    changed (`learner.model[0][0] = conv`), or used in plain Flax code. A fit takes the
    values from it and puts them back, also when it is interrupted.

    Attributes:
        data: Where batches come from.
        groups: Layer groups, first to last: name to pattern or paths.
        history: Every epoch so far, over all phases.
        norms: What the norm layers of frozen groups do.

    References:
        fastai 2.8.12, learner.py `Learner`; the names and defaults are its.
    """

    def __init__(
        self,
        data,
        model: nnx.Module,
        *,
        metrics: Metric | Iterable[Metric] | None = None,
        loss: Callable = cross_entropy,
        groups: Groups | None = None,
        split_on: Callable | None = None,
        norms: Norms = "train",
        optimizer: Optimizer = adam,
        lr: float = 1e-3,
        wd: float = 0.01,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        clip_norm: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int | None = None,
        verbose: bool = True,
    ):
        """Takes the network and how it is to be trained; nothing is computed yet.

        Args:
            data: `ImageDataLoaders`.
            model: Two children, body and head, see `create_cnn_model`.
            metrics: One or several functions (logits, label) -> a value for each row.
            loss: A function of the same form, which training minimises.
            groups: Layer groups by pattern; found from the body if None.
            split_on: Layer groups by a fastai splitter instead.
            norms: What the norm layers of frozen groups do: "frozen", "stats", "train".
            optimizer: Makes each group's optimizer.
            lr: Peak learning rate where a fit is given none.
            wd: Weight decay, not applied to norms and biases.
            moms: Momentum at a cycle's start, at its peak and at its end.
            clip_norm: Largest global norm of the gradients of what trains.
            mean: Of each channel, for images in 0..1; no normalisation if None.
            std: Of each channel.
            seed: Decides dropout and augmentation; the data's seed if None.
            verbose: Whether to show start lines, tables and progress.

        Raises:
            ValueError: If a parameter is in no group or several, or an option is
                unknown.
        """
        check_norms(norms)
        if groups is not None and split_on is not None:
            raise ValueError("give groups or split_on, not both.")
        if (mean is None) != (std is None):
            raise ValueError("give both mean and std, or neither.")
        self.data = data
        self.norms: Norms = norms
        self.verbose = verbose
        self.lr, self.wd, self.moms = lr, wd, tuple(moms)
        self.history = History()
        self.seed = data.seed if seed is None else seed
        self._metrics = named_metrics(metrics)
        self._loss = loss
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        self._mean, self._std = mean, std
        self._module = model
        if split_on is not None:
            groups = groups_from_splitter(model, split_on)
        self.groups: dict = dict(groups or default_groups(model))
        group_labels(split_module(model)[1], self.groups)
        self._boundary = 0
        self._opt_state = None
        self._running: Running | None = None
        self._step = 0
        self._phase = 0
        self._programs: dict = {}
        self._rows, self._everywhere = data_sharding(data.batch_size)
        enable_compilation_cache()

    # What is there.

    @property
    def model(self) -> nnx.Module:
        """The network with its newest values: `model[0]` the body, `model[1]` the head."""
        if self._running is not None:
            self._sync(self._running.state)
        return self._module

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """Names of the layer groups that do not train now."""
        return tuple(self.groups)[: self._boundary]

    @property
    def num_programs(self) -> int:
        """Number of programs compiled so far for training, validation, prediction."""
        return sum(step._cache_size() for step in self._programs.values())

    # Freezing.

    def freeze(self) -> None:
        """Freezes every layer group but the last, the head."""
        if len(self.groups) < 2:
            raise ValueError(
                "freeze() needs at least two layer groups; there is only "
                f"{', '.join(self.groups)}. Give groups= or split_on=."
            )
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Makes every layer group train. Changes no value."""
        self.freeze_to(0)

    def freeze_to(self, boundary: int | str) -> None:
        """Freezes the layer groups before one, and makes that and all later ones train.

        Changes no parameter and no statistic; the optimizer starts anew in the next
        fit, as fastai's does.

        Args:
            boundary: Number or name of the first group that trains; negative numbers
                count from the end.

        Raises:
            ValueError: If there is no such group.
        """
        self._boundary = boundary_index(boundary, self.groups)
        self._opt_state = None

    # Training.

    def fit(self, epochs: int, lr: Rates | None = None, *, wd=None) -> History:
        """Trains at constant rates and momentum 0.9; returns these epochs' history.

        Args:
            epochs: Passes over the training data.
            lr: Learning rate: a number, one for each group, or a slice; see
                `resolve_rates`.
            wd: Weight decay, the learner's if None.
        """
        steps = self._total_steps(epochs)
        return self._fit(epochs, lr, constant(steps), wd=wd)

    def fit_one_cycle(
        self,
        epochs: int,
        lr_max: Rates | None = None,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
    ) -> History:
        """Trains with the one-cycle schedule; returns these epochs' history.

        Args:
            epochs: Passes over the training data; the cycle spans them all.
            lr_max: Peak learning rate: a number, one for each group, or a slice.
            div: The cycle starts at lr_max / div.
            div_final: The cycle ends at lr_max / div_final.
            pct_start: Fraction of the cycle spent rising.
            wd: Weight decay, the learner's if None.
            moms: Momentum at start, peak and end, the learner's if None.

        References:
            Smith and Topin, https://arxiv.org/abs/1708.07120.
            fastai 2.8.12, callback/schedule.py `fit_one_cycle`.
        """
        schedule = one_cycle(
            self._total_steps(epochs),
            pct_start=pct_start,
            div=div,
            div_final=div_final,
            momentums=moms or self.moms,
        )
        return self._fit(epochs, lr_max, schedule, wd=wd)

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        *,
        freeze_epochs: int = 1,
        lr_mult: float = 100.0,
        pct_start: float = 0.3,
        div: float = 5.0,
        **options,
    ) -> History:
        """Trains the head with the body frozen, then everything; returns the history.

        Phase 1: `freeze_epochs` epochs, frozen, peak rate `base_lr` (a tenth of it for
        what still trains in earlier groups). Phase 2: `epochs` epochs, unfrozen, peak
        rates from base_lr / 2 / lr_mult in the first group to base_lr / 2 in the last.

        Args:
            epochs: Epochs after unfreezing.
            base_lr: Peak rate of the head in phase 1.
            freeze_epochs: Epochs before unfreezing; 0 leaves phase 1 out.
            lr_mult: How much slower the first group is than the last.
            pct_start: Fraction of phase 2 spent rising; 0.99 in phase 1.
            div: Phase 2 starts at its peak rates / div.
            **options: `wd`, `moms` and `div_final`, for both phases.

        References:
            fastai 2.8.12, callback/schedule.py `fine_tune`.
        """
        self._check_epochs(epochs, "epochs")
        self._check_epochs(freeze_epochs, "freeze_epochs", least=0)
        rows = len(self.history)
        phases = itertools.count(1)
        total = 2 if freeze_epochs else 1
        if freeze_epochs:
            self.freeze()
            with self._naming(f"phase {next(phases)}/{total}"):
                self.fit_one_cycle(
                    freeze_epochs, slice(base_lr), pct_start=0.99, **options
                )
        base_lr /= 2
        self.unfreeze()
        with self._naming(f"phase {next(phases)}/{total}"):
            self.fit_one_cycle(
                epochs,
                slice(base_lr / lr_mult, base_lr),
                pct_start=pct_start,
                div=div,
                **options,
            )
        return History(self.history.rows[rows:])

    # Results.

    def validate(self, loader=None) -> dict[str, float]:
        """Returns the mean loss and metrics over every photo of the validation data.

        Args:
            loader: Another loader than the data's validation loader.
        """
        loader = self.data.valid_loader if loader is None else loader
        return evaluate(
            *self._values(),
            loader.batches(),
            eval_step=self._eval_step(),
            place=self._place,
        )

    evaluate = validate

    def predict(self, item) -> Prediction | list[Prediction]:
        """Says what is on an image, or on each of a list of images.

        Args:
            item: A path, bytes, a PIL image or an array (h, w, 3); or a list of them.

        Returns:
            Label, index and probabilities; a list of them for a list.

        Raises:
            jaxtune.data.ImageError: If an image can't be read; it is named.
        """
        if isinstance(item, list | tuple):
            return self._predict_many(list(item))
        return self._predict_many([item])[0]

    # Inside.

    _name: str | None = None

    @contextlib.contextmanager
    def _naming(self, name: str):
        self._name = name
        try:
            yield
        finally:
            self._name = None

    def _total_steps(self, epochs: int) -> int:
        self._check_epochs(epochs, "epochs")
        return epochs * len(self.data.train_loader)

    @staticmethod
    def _check_epochs(epochs: int, name: str, least: int = 1) -> None:
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < least:
            raise ValueError(
                f"{name} must be a whole number from {least} on; received {epochs!r}."
            )

    def _fit(
        self, epochs: int, rates: Rates | None, schedule: Schedule, *, wd
    ) -> History:
        labels, view = self._phase_view()
        peaks = resolve_rates(self.lr if rates is None else rates, len(self.groups))
        training = set(jax.tree.leaves(labels)) - {FROZEN}
        tx = group_optimizer(
            labels,
            {n: r for n, r in zip(self.groups, peaks, strict=True) if n in training},
            schedule,
            optimizer=self._optimizer,
            weight_decay=self.wd if wd is None else wd,
            no_decay=no_decay_paths(view),
            clip_norm=self._clip_norm,
        )
        graphdef, params, model_state = split_module(view)
        state = TrainState.create(params, model_state, tx)
        if self._opt_state is not None:
            opt_state = restart_schedule(self._opt_state, state.opt_state)
            state = state.replace(opt_state=opt_state)
        # A copy: the steps give their state up, and the module keeps its arrays.
        state = jax.device_put(jax.tree.map(jnp.copy, state), self._everywhere)
        self._running = Running(state.replace(step=state.step + jnp.int32(self._step)))
        self._phase += 1
        rows = len(self.history)
        columns = ["phase", "epoch", "train_loss", "valid_loss", *self._metrics]
        try:
            with Reporter(
                self._start_line(labels),
                [*columns, "images/s", "time"],
                verbose=self.verbose,
            ) as reporter:
                for row in run_epochs(
                    self._running,
                    epochs=epochs,
                    first_epoch=len(self.history),
                    phase=self._phase,
                    data=self.data,
                    key=jax.random.key(self.seed),
                    train_step=self._train_step(graphdef, tx, labels),
                    eval_step=self._eval_step(),
                    place=self._place,
                    reporter=reporter,
                ):
                    self.history.append(row)
        finally:
            state, self._running = self._running.state, None
            self._sync(state)
            self._opt_state = state.opt_state
            self._step = int(state.step)
        return History(self.history.rows[rows:])

    def _phase_view(self) -> tuple[nnx.State, nnx.Module]:
        labels = group_labels(split_module(self._module)[1], self.groups)
        frozen = self.frozen_groups
        view = training_view(self._module, labels, frozen, norms=self.norms)
        norm_params = norm_paths(self._module)
        return (
            optimizer_labels(labels, frozen, norms=self.norms, norm_params=norm_params),
            view,
        )

    def _start_line(self, labels: nnx.State) -> str:
        params = split_module(self._module)[1]
        sizes = [leaf.size for leaf in jax.tree.leaves(params)]
        names = jax.tree.leaves(labels)
        trained = sum(s for s, n in zip(sizes, names, strict=True) if n != FROZEN)
        open_groups = tuple(self.groups)[self._boundary :]
        if not self._boundary:
            what = "all layer groups"
        else:
            what = f"{', '.join(open_groups)} only"
            if set(names) & set(self.frozen_groups):
                what = f"{', '.join(open_groups)}, and the norms of frozen groups"
        name = self._name or f"phase {self._phase}"
        return (
            f"{name} · {what} · {_millions(trained)} of {_millions(sum(sizes))} "
            "parameters train"
        )

    def _train_step(self, graphdef, tx, labels) -> Callable:
        key = ("train", graphdef, tuple(jax.tree.leaves(labels)))
        if key not in self._programs:
            step = make_train_step(
                graphdef, tx, loss=self._loss, labels=labels, prepare=self._prepare
            )
            self._programs[key] = compile_step(step, donate=True)
        return self._programs[key]

    def _eval_step(self) -> Callable:
        graphdef = nnx.graphdef(evaluating(self._module))
        key = ("eval", graphdef)
        if key not in self._programs:
            step = make_eval_step(
                graphdef,
                loss=self._loss,
                metrics=self._metrics,
                prepare=lambda batch: self._normalized(to_float(batch["image"])),
            )
            self._programs[key] = compile_step(step)
        return self._programs[key]

    def _predict_step(self) -> Callable:
        graphdef = nnx.graphdef(evaluating(self._module))
        key = ("predict", graphdef)
        if key not in self._programs:
            step = make_predict_step(
                graphdef, prepare=lambda images: self._normalized(to_float(images))
            )
            self._programs[key] = compile_step(step)
        return functools.partial(self._programs[key], *self._values())

    def _values(self) -> tuple[nnx.State, nnx.State]:
        _, params, model_state = split_module(self.model)
        return jax.device_put((params, model_state), self._everywhere)

    def _prepare(self, batch, key):
        images = augment(
            batch["image"],
            batch["aspect"],
            per_image_keys(key, batch["index"]),
            size=self.data.size,
            augmentation=self.data.augmentation,
        )
        return self._normalized(images)

    def _normalized(self, images):
        if self._mean is None:
            return images
        return normalize(images, self._mean, self._std)

    def _predict_many(self, items: list) -> list[Prediction]:
        if not items:
            return []
        step, answers = self._predict_step(), []
        # One image alone, or batches of one fixed size: two programs at the most.
        size = 1 if len(items) == 1 else self.data.batch_size
        for start in range(0, len(items), size):
            images = [self.data.prepare_image(i) for i in items[start : start + size]]
            padding = [np.zeros_like(images[0])] * (size - len(images))
            batch = np.stack(images + padding)
            answers += list(np.asarray(step(batch))[: len(images)])
        return [
            Prediction(self.data.classes[int(p.argmax())], int(p.argmax()), p)
            for p in answers
        ]

    def _place(self, batch) -> dict[str, jax.Array]:
        return place_batch(batch, self._rows)

    def _sync(self, state: TrainState) -> None:
        nnx.update(self._module, state.params, state.model_state)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}M" if count >= 10_000 else f"{count:,}"
