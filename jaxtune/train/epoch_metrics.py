"""Metrics of a whole epoch: figures that are no mean over photos, such as F1 or AUC.

A figure is of all photos at once, so it is the same whatever the batches, the padding
and the number of devices. The figures are scikit-learn's.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from jaxtune.arguments import check_choice
from jaxtune.data import one_or_class_values


class EpochMetric:
    """A figure of all photos of an epoch; subclass it for one of your own.

    Two methods make one: `from_batch`, which is compiled into the eval step, and
    `compute`, which runs once an epoch, on the host, in NumPy. What `from_batch`
    returns is added over the batches, or put together by a `merge` of your own (a
    maximum, a sketch). Where no state of fixed size is enough, `gather = True` keeps
    arrays with a row for each photo, one below the other, without padding; that costs
    the host's memory.

    Attributes:
        name: Of the column; the class's name in snake_case if None.
        gather: Whether rows are kept instead of sums.
        kinds: Of labels that it is for ("single", "multi", "regression"); any if None.
        higher_is_better: For callbacks that look for the best epoch.

    Example:
        >>> class Predicted(EpochMetric):
        ...     "How many of the classes are predicted at all."
        ...     kinds = ("single",)
        ...     def from_batch(self, logits, label, mask):
        ...         predicted = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
        ...         return (predicted * mask[:, None]).sum(0)
        ...     def compute(self, total):
        ...         return (total > 0).mean()
        >>> metric, logits = Predicted(), jnp.asarray([[0.0, 1.0], [0.0, 2.0]])
        >>> total = metric.from_batch(logits, jnp.asarray([0, 1]), jnp.ones(2, bool))
        >>> float(metric.compute(np.asarray(total)))
        0.5
    """

    name: str | None = None
    gather: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...] | None] = None
    higher_is_better: ClassVar[bool | None] = None

    def from_batch(
        self, logits: Num[Array, "b ..."], label: Num[Array, "b ..."], mask: Array
    ) -> Any:
        """Returns what a batch adds to the epoch: arrays, or a tree of them.

        It is traced by JAX.

        Args:
            logits: The network's outputs, (b, c).
            label: As the data gives it: int32 (b,), or float32 (b, c) or (b,).
            mask: bool (b,), False for padding and photos that can't be read.

        Returns:
            Sums over the real rows; with `gather`, arrays (b, ...).
        """
        raise NotImplementedError

    def merge(self, one: Any, other: Any) -> Any:
        """Returns two parts of an epoch as one, their sum; not used with `gather`.

        Args:
            one: Of the batches so far, as `from_batch` returned it, or `merge`; NumPy
                arrays of float64 or int64.
            other: Of the next batch, likewise.
        """
        return jax.tree.map(np.add, one, other)

    def compute(self, total: Any) -> float:
        """Returns the figure of an epoch.

        Args:
            total: What `from_batch` returned, merged over all batches, NumPy arrays of
                float64 or int64; with `gather`, all real rows, (n, ...).
        """
        raise NotImplementedError


def column_name(metric: EpochMetric) -> str:
    """Returns the name of an epoch metric's column.

    Example:
        >>> column_name(CohenKappa()), column_name(F1Score(name="f1"))
        ('cohen_kappa_score', 'f1')
    """
    if metric.name:
        return metric.name
    kind = type(metric)
    column = getattr(kind, "column", None)
    return column or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ByClass(EpochMetric):
    """Figures of each class's counts: actual, predicted, and both."""

    labels: Sequence[Any] | None = None
    pos_label: Any = 1
    average: str | None = "binary"
    name: str | None = None

    kinds: ClassVar = ("single",)
    higher_is_better: ClassVar = True
    of_classes: ClassVar = ("labels", "pos_label")
    averages: ClassVar = ("binary", "micro", "macro", "weighted")

    def __post_init__(self) -> None:
        """Refuses averages that there are not."""
        if self.average is None:
            raise ValueError(
                f"{type(self).__name__} is one figure an epoch: average must be one of"
                f" {', '.join(map(repr, self.averages))}. interpret().report() has each"
                " class's."
            )
        check_choice(self.average, "average", self.averages)

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns counts of each class, int32 (c,)."""
        count = logits.shape[-1]
        if self.average == "binary" and count != 2:
            raise ValueError(
                f"average='binary' is for two classes, and there are {count}: write "
                f"{type(self).__name__}(average='macro'), or 'micro' or 'weighted'"
            )
        numbers = jnp.arange(count, dtype=jnp.int32)
        return _counts(
            (label[:, None] == numbers) & mask[:, None],
            (logits.argmax(-1)[:, None] == numbers) & mask[:, None],
        )

    def score(
        self, both: np.ndarray, predicted: np.ndarray, actual: np.ndarray
    ) -> np.ndarray:
        """Returns the figure of counts; 0 where it is 0 / 0."""
        raise NotImplementedError

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the figure, averaged over the classes."""
        both, predicted, actual = (
            total[name] for name in ("both", "predicted", "actual")
        )
        chosen = np.arange(len(actual)) if self.labels is None else list(self.labels)
        if self.average == "binary":
            chosen = [self.pos_label]
        elif self.labels is None and self.kinds == ("single",):
            # As in scikit-learn, classes that don't occur are no classes.
            chosen = np.flatnonzero(predicted + actual)
        both, predicted, actual = (
            x[np.asarray(chosen, int)] for x in (both, predicted, actual)
        )
        if self.average == "micro":
            return float(self.score(both.sum(), predicted.sum(), actual.sum()))
        scores = self.score(both, predicted, actual)
        if self.average == "weighted":
            return float(_ratio((scores * actual).sum(), actual.sum()))
        return float(scores.mean())


class _Precision:
    column = "precision_score"

    def score(self, both, predicted, actual):
        """Returns both / predicted."""
        return _ratio(both, predicted)


class _Recall:
    column = "recall_score"

    def score(self, both, predicted, actual):
        """Returns both / actual."""
        return _ratio(both, actual)


class _F1:
    column = "f1_score"

    def score(self, both, predicted, actual):
        """Returns 2 both / (predicted + actual)."""
        return _ratio(2 * both, predicted + actual)


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1Score(_F1, _ByClass):
    """F1, the harmonic mean of precision and recall, for one class a photo.

    Attributes:
        labels: The classes that are averaged, by name or number; those that occur if
            None.
        pos_label: With average="binary", the class that is looked for, by name or
            number.
        average: "binary" for two classes; for more "macro" (mean over classes),
            "weighted" (by their photos) or "micro" (all classes counted together).
        name: Of the column, `f1_score` if None.

    References:
        scikit-learn, `f1_score`; fastai 2.8.12, metrics.py `F1Score`.
    """

    counterparts: ClassVar = {"multi": "F1ScoreMulti"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision(_Precision, _ByClass):
    """Of the photos predicted to be of a class, the share that is; see `F1Score`.

    References:
        scikit-learn, `precision_score`; fastai 2.8.12, metrics.py `Precision`.
    """

    counterparts: ClassVar = {"multi": "PrecisionMulti"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(_Recall, _ByClass):
    """Of a class's photos, the share that is found; see `F1Score`.

    References:
        scikit-learn, `recall_score`; fastai 2.8.12, metrics.py `Recall`.
    """

    counterparts: ClassVar = {"multi": "RecallMulti"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Multi(_ByClass):
    """Figures of counts by class, for several classes a photo."""

    thresh: Any = 0.5
    sigmoid: bool = True
    average: str | None = "macro"

    kinds: ClassVar = ("multi",)
    of_classes: ClassVar = ("labels",)
    per_class: ClassVar = {"thresh": one_or_class_values}
    averages: ClassVar = ("micro", "macro", "weighted", "samples")

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns counts of each class, int32 (c,), and scores of photos, added."""
        thresh = one_or_class_values(self.thresh, logits.shape[-1], "thresh")
        likely = _likely(logits, self.sigmoid) > jnp.asarray(thresh, jnp.float32)
        actual, predicted = (label > 0.5) & mask[:, None], likely & mask[:, None]
        counts = _counts(actual, predicted)
        if self.average == "samples":
            places = range(logits.shape[-1]) if self.labels is None else self.labels
            chosen = jnp.asarray(list(places))
            rows = {
                "actual": actual,
                "predicted": predicted,
                "both": actual & predicted,
            }
            rows = {name: x[:, chosen].sum(1) for name, x in rows.items()}
            scores = self.score(rows["both"], rows["predicted"], rows["actual"])
            counts |= {"scores": scores.sum(), "photos": mask.sum()}
        return counts

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the figure, averaged over classes or photos."""
        if self.average == "samples":
            return float(_ratio(total["scores"], total["photos"]))
        return super().compute(total)


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1ScoreMulti(_F1, _Multi):
    """F1 for several classes a photo.

    Attributes:
        labels: The classes that are averaged, by name or number; all if None.
        average: "macro" (mean over classes), "weighted" (by their photos), "micro" (all
            classes counted together) or "samples" (mean over photos).
        thresh: A class is there if its probability is above: one number, or one a
            class, see `accuracy_multi`.
        sigmoid: Whether outputs have yet to become probabilities.
        name: Of the column, `f1_score` if None.

    References:
        scikit-learn, `f1_score`; fastai 2.8.12, metrics.py `F1ScoreMulti`.
    """

    counterparts: ClassVar = {"single": "F1Score"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionMulti(_Precision, _Multi):
    """Precision for several classes a photo; see `F1ScoreMulti`."""

    counterparts: ClassVar = {"single": "Precision"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecallMulti(_Recall, _Multi):
    """Recall for several classes a photo; see `F1ScoreMulti`."""

    counterparts: ClassVar = {"single": "Recall"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedAccuracy(EpochMetric):
    """The mean over the classes of the share of their photos that are found.

    Attributes:
        name: Of the column, `balanced_accuracy_score` if None.

    References:
        scikit-learn, `balanced_accuracy_score`; fastai 2.8.12, metrics.py
        `BalancedAccuracy`.
    """

    name: str | None = None

    kinds: ClassVar = ("single",)
    higher_is_better: ClassVar = True
    column: ClassVar = "balanced_accuracy_score"

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns counts of each class, int32 (c,)."""
        return Recall(average="macro").from_batch(logits, label, mask)

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the mean over the classes that have a photo."""
        occur = total["actual"] > 0
        return float(_ratio(total["both"], total["actual"])[occur].mean())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatthewsCorrCoef(EpochMetric):
    """Matthews' correlation of classes and predictions, -1 to 1; 0 by chance.

    Attributes:
        name: Of the column, `matthews_corrcoef` if None.

    References:
        scikit-learn, `matthews_corrcoef`; fastai 2.8.12, metrics.py `MatthewsCorrCoef`.
    """

    name: str | None = None

    kinds: ClassVar = ("single",)
    higher_is_better: ClassVar = True
    column: ClassVar = "matthews_corrcoef"

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns counts of each class, int32 (c,)."""
        return Recall(average="macro").from_batch(logits, label, mask)

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the correlation; 0 where all photos or predictions are one class."""
        both, predicted, actual = (
            total[name].astype(np.float64) for name in ("both", "predicted", "actual")
        )
        count = actual.sum()
        spread = (count**2 - (predicted**2).sum()) * (count**2 - (actual**2).sum())
        return float(_ratio(both.sum() * count - predicted @ actual, np.sqrt(spread)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CohenKappa(EpochMetric):
    """Cohen's kappa: how far classes and predictions agree beyond chance.

    With weights="quadratic" errors count by the square of the distance of the classes'
    numbers: for grades. Two int32 a photo are kept on the host until the epoch's end.

    Attributes:
        labels: The classes, by name or number, in the order of the grades; those that
            occur, in the order of their numbers, if None, as in scikit-learn. With all
            of them named, a grade that does not occur still counts as a step.
        weights: None, "linear" or "quadratic".
        name: Of the column, `cohen_kappa_score` if None.

    References:
        scikit-learn, `cohen_kappa_score`; fastai 2.8.12, metrics.py `CohenKappa`.
    """

    labels: Sequence[Any] | None = None
    weights: str | None = None
    name: str | None = None

    kinds: ClassVar = ("single",)
    gather: ClassVar = True
    higher_is_better: ClassVar = True
    of_classes: ClassVar = ("labels",)
    column: ClassVar = "cohen_kappa_score"

    def __post_init__(self) -> None:
        """Refuses weights that there are not."""
        check_choice(self.weights, "weights", ("linear", "quadratic"), or_none=True)

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns classes and predictions, int32 (b,)."""
        return {"actual": label, "predicted": logits.argmax(-1).astype(jnp.int32)}

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns kappa; NaN where chance alone would agree wholly."""
        actual, predicted = total["actual"], total["predicted"]
        classes = (
            np.unique([actual, predicted]) if self.labels is None else list(self.labels)
        )
        order = np.asarray(classes, int)
        size = max(order.max(), actual.max(), predicted.max()) + 1
        table = np.bincount(actual * size + predicted, minlength=size**2).reshape(
            size, size
        )
        table = table[np.ix_(order, order)].astype(np.float64)
        places = np.arange(len(order))
        distance = np.abs(places[:, None] - places)
        cost = {
            None: (distance > 0).astype(np.float64),
            "linear": distance,
            "quadratic": distance**2,
        }[self.weights]
        chance = np.outer(table.sum(1), table.sum(0)) / max(table.sum(), 1.0)
        expected = (cost * chance).sum()
        return float(1 - (cost * table).sum() / expected) if expected else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RocAuc(EpochMetric):
    """The area under the ROC curve, for one class a photo; exact.

    The chance that of two photos, one of a class and one not, the first has the higher
    probability of it. All probabilities are kept on the host until the epoch's end: 4
    bytes for each class and photo. NaN where a class, or all others, have no photo.

    Attributes:
        average: Over the classes: "macro" or "weighted" (by their photos); "micro" for
            "ovr" only. For two classes it is the second one's area, whatever this says.
        multi_class: "ovr", each class against the rest, or "ovo", each against each.
        name: Of the column, `roc_auc_score` if None.

    References:
        scikit-learn, `roc_auc_score`; fastai 2.8.12, metrics.py `RocAuc`.
    """

    average: str = "macro"
    multi_class: str = "ovr"
    name: str | None = None

    kinds: ClassVar = ("single",)
    gather: ClassVar = True
    higher_is_better: ClassVar = True
    counterparts: ClassVar = {"multi": "RocAucMulti"}
    column: ClassVar = "roc_auc_score"

    def __post_init__(self) -> None:
        """Refuses averages that there are not."""
        check_choice(self.multi_class, "multi_class", ("ovr", "ovo"))
        micro = ("micro",) if self.multi_class == "ovr" else ()
        check_choice(self.average, "average", ("macro", "weighted", *micro))

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns classes (b,), and probabilities (b, c)."""
        predicted = jax.nn.softmax(logits.astype(jnp.float32))
        return {"actual": label, "predicted": predicted}

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the area."""
        label, predicted = total["actual"], total["predicted"]
        count = predicted.shape[1]
        actual = label[:, None] == np.arange(count)
        if count == 2:
            return _area(actual[:, 1], predicted[:, 1])
        if self.multi_class == "ovr":
            return _averaged(_area, actual, predicted, self.average)
        areas, shares = [], []
        for a in range(count):
            for b in range(a + 1, count):
                pair = actual[:, a] | actual[:, b]
                both = [_area(actual[pair, i], predicted[pair, i]) for i in (a, b)]
                areas.append(np.mean(both))
                shares.append(pair.mean())
        return float(np.average(areas, weights=_weights(shares, self.average)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RocAucBinary(RocAuc):
    """The area under the ROC curve of the second of two classes; see `RocAuc`.

    References:
        fastai 2.8.12, metrics.py `RocAucBinary`.
    """

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns classes (b,), and probabilities (b, 2)."""
        if logits.shape[-1] != 2:
            raise ValueError(
                f"RocAucBinary is for two classes, and there are {logits.shape[-1]}: "
                "RocAuc() fits"
            )
        return super().from_batch(logits, label, mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RocAucMulti(EpochMetric):
    """The area under the ROC curve, for several classes a photo; exact.

    All probabilities are kept on the host until the epoch's end, with the labels: 8
    bytes for each class and photo. NaN where a class has no photo, or every one.

    Attributes:
        average: "macro", "micro", "weighted" or "samples", see `F1ScoreMulti`.
        sigmoid: Whether outputs have yet to become probabilities.
        name: Of the column, `roc_auc_score` if None.

    References:
        scikit-learn, `roc_auc_score`; fastai 2.8.12, metrics.py `RocAucMulti`.
    """

    average: str = "macro"
    sigmoid: bool = True
    name: str | None = None

    kinds: ClassVar = ("multi",)
    gather: ClassVar = True
    higher_is_better: ClassVar = True
    counterparts: ClassVar = {"single": "RocAuc"}
    column: ClassVar = "roc_auc_score"

    def __post_init__(self) -> None:
        """Refuses averages that there are not."""
        check_choice(self.average, "average", _Multi.averages)

    def from_batch(
        self, logits: Float[Array, "b c"], label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns labels and probabilities (b, c)."""
        return {"actual": label, "predicted": _likely(logits, self.sigmoid)}

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the area."""
        return _averaged(_area, total["actual"] > 0.5, total["predicted"], self.average)


@dataclasses.dataclass(frozen=True, kw_only=True)
class APScoreMulti(RocAucMulti):
    """Average precision (mAP), for several classes a photo; see `RocAucMulti`.

    The area under the curve of precision over recall, as a sum of steps. 0 for a class
    that no photo has.

    References:
        scikit-learn, `average_precision_score`; fastai 2.8.12, metrics.py
        `APScoreMulti`.
    """

    counterparts: ClassVar = {}
    column: ClassVar = "average_precision_score"

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the average precision."""
        actual = total["actual"] > 0.5
        return _averaged(_average_precision, actual, total["predicted"], self.average)


@dataclasses.dataclass(frozen=True, kw_only=True)
class R2Score(EpochMetric):
    """The coefficient of determination of predicted numbers; 1 is best.

    1 - squared errors / squared distances from the mean; of several outputs, the mean.
    Outputs and targets are kept on the host until the epoch's end: 8 bytes each.

    Attributes:
        name: Of the column, `r2_score` if None.

    References:
        scikit-learn, `r2_score`; fastai 2.8.12, metrics.py `R2Score`.
    """

    name: str | None = None

    kinds: ClassVar = ("regression",)
    gather: ClassVar = True
    higher_is_better: ClassVar = True
    column: ClassVar = "r2_score"

    def from_batch(
        self, logits: Array, label: Array, mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Returns outputs and targets, (b, k)."""
        rows = logits.shape[0]
        return {
            "predicted": logits.reshape(rows, -1),
            "actual": label.reshape(rows, -1),
        }

    def compute(self, total: dict[str, np.ndarray]) -> float:
        """Returns the mean over outputs; of equal targets 1 if right, else 0."""
        predicted, actual = (
            np.asarray(total[n], np.float64) for n in ("predicted", "actual")
        )
        errors = ((predicted - actual) ** 2).sum(0)
        spread = ((actual - actual.mean(0)) ** 2).sum(0)
        constant = spread == 0
        scores = np.where(
            constant, errors == 0, 1 - errors / np.where(constant, 1, spread)
        )
        return float(scores.mean())


def _counts(
    actual: Bool[Array, "b c"], predicted: Bool[Array, "b c"]
) -> dict[str, Array]:
    parts = {"actual": actual, "predicted": predicted, "both": actual & predicted}
    return {name: x.sum(0, dtype=jnp.int32) for name, x in parts.items()}


def _likely(logits: Float[Array, "b c"], sigmoid: bool) -> Float[Array, "b c"]:
    logits = logits.astype(jnp.float32)
    return jax.nn.sigmoid(logits) if sigmoid else logits


def _ratio(above: Any, below: Any) -> Any:
    """above / below, and 0 where below is; of NumPy's arrays or JAX's."""
    xp = jnp if isinstance(below, jax.Array) else np
    return xp.where(below > 0, above / xp.where(below > 0, below, 1), 0.0)


def _averaged(
    score: Any,
    actual: Bool[np.ndarray, "n c"],
    predicted: Float[np.ndarray, "n c"],
    how: str,
) -> float:
    if how == "micro":
        return score(actual.ravel(), predicted.ravel())
    if how == "samples":
        return float(
            np.mean([score(*row) for row in zip(actual, predicted, strict=True)])
        )
    scores = [score(actual[:, i], predicted[:, i]) for i in range(actual.shape[1])]
    return float(np.average(scores, weights=_weights(actual.sum(0), how)))


def _weights(counts: Any, how: str) -> Any:
    return counts if how == "weighted" and np.sum(counts) else None


def _area(actual: Bool[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> float:
    """The Mann-Whitney statistic: equal probabilities count half."""
    positive, negative = int(actual.sum()), int((~actual).sum())
    if not positive or not negative:
        return float("nan")
    _, place, count = np.unique(predicted, return_inverse=True, return_counts=True)
    last = np.cumsum(count, dtype=np.float64)
    ranks = (last - (count - 1) / 2)[place]
    above = ranks[actual].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def _average_precision(
    actual: Bool[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]
) -> float:
    if not actual.any():
        return 0.0
    order = np.argsort(-predicted, kind="stable")
    # No threshold parts equal probabilities.
    ends = np.append(np.flatnonzero(np.diff(predicted[order])), len(predicted) - 1)
    hits = np.cumsum(actual[order], dtype=np.float64)[ends]
    steps = np.diff(hits, prepend=0.0) / actual.sum()
    return float((steps * hits / (ends + 1)).sum())
