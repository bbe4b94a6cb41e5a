"""What of a `Learner` shows results: predictions of whole loaders, and pictures.

The one rule of the file: everything runs through programs that are compiled once for
one shape of batch; photos are prepared as validation prepares them, unless augmentation
is what was asked for.
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtune.arguments import Integer, Number, check_flag, check_integer, check_number
from jaxtune.loop.recovery import warn_not_finite
from jaxtune.loop.trainer import Trainer
from jaxtune.plots import image_grid
from jaxtune.results.explanation import Explanation
from jaxtune.results.interpretation import (
    ClassificationInterpretation,
    Interpretation,
    RegressionInterpretation,
)
from jaxtune.results.predictions import (
    Predictions,
    gather,
    is_labelled,
    loader_like,
    plain_loader,
    require_items,
)
from jaxtune.results.thresholds import decode

#: Folded into the seed's key for test-time augmentation: epochs never count so far.
_TTA = 2**31 - 1

#: Titles of what is right and what is wrong.
_RIGHT, _WRONG = "#1a7f37", "#cf222e"


class Results(Explanation):
    """What of a `Learner` shows results, and explains them.

    Attributes:
        data: Where batches come from.
        seed: Decides what is drawn.
    """

    data: Any
    seed: int
    _trainer: Trainer

    def get_preds(
        self,
        loader: Any = None,
        *,
        with_loss: bool = False,
        with_decoded: bool = False,
        thresh: Any = None,
    ) -> Predictions:
        """Returns what the network says of every photo, in the loader's order.

        `probabilities, targets = learner.get_preds()` takes the answer apart, as in
        fastai.

        Args:
            loader: Validation if None; "train" for the training photos, in order and
                without augmentation; a loader, one that shuffles being put in order;
                other `ImageDataLoaders`, whose validation photos are taken; or photos:
                paths, a folder, a glob, a column of a table and what else
                `ImageDataLoaders.test_loader` takes, which have no targets. Labels of
                other data are matched to the classes by name.
            with_loss: Whether to return each row's loss, by the learner's own.
            with_decoded: Whether to return what the probabilities mean: the class; for
                several labels, which classes are above the threshold.
            thresh: Of several labels, one for all classes, one for each, or a dict by
                name or number; the learner's `thresholds` if None.

        Raises:
            ValueError: If there is no such loader, or no readable photo, its labels
                don't fit, or it has none and losses are asked for.
            TypeError: If an argument is of another type.
            FileNotFoundError: If there is no such file or folder.
            jaxtune.data.ImageError: If a photo can't be read; each is named.

        References:
            fastai 2.8.12, learner.py `Learner.get_preds`.
        """
        check_flag(with_loss, "with_loss")
        check_flag(with_decoded, "with_decoded")
        thresh = self._chosen_thresholds(thresh)
        loader = plain_loader(self.data, loader, needs_labels=with_loss)
        answers = self._answers()

        def answer(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            placed = answers.place(batch)
            outputs, said = answers.of(placed["image"])
            found = {"probabilities": said}
            if with_loss:
                found["losses"] = answers.losses(outputs, placed["label"])
            return found

        with self._trainer.programs.device_errors():
            rows = gather(answer, loader.batches())
        return self._predictions(rows, loader, with_decoded, thresh)

    def tta(
        self,
        loader: Any = None,
        *,
        n: Integer = 4,
        beta: Number = 0.25,
        use_max: bool = False,
        with_decoded: bool = False,
        thresh: Any = None,
    ) -> Predictions:
        """Returns predictions averaged over augmented photos and the plain one.

        (1 - beta) * mean of n augmented + beta * plain, of probabilities. Photos are
        prepared and augmented as those that train; what is drawn depends on the
        learner's seed, the number of the draw and the photo alone.

        Args:
            loader: As in `get_preds`; of loaders jaxtune's own.
            n: How many augmented predictions of each photo.
            beta: Weight of the plain prediction.
            use_max: Whether to take the largest of all instead, for each class.
            with_decoded: As in `get_preds`.
            thresh: As in `get_preds`.

        Raises:
            ValueError: If the data has no augmentation, or n or beta is out of range.
            TypeError: If an argument is of another type, or the loader's photos can't
                be found again.

        References:
            fastai 2.8.12, learner.py `Learner.tta`.
        """
        n = check_integer(n, "n", least=1)
        beta = check_number(beta, "beta", least=0, most=1)
        check_flag(use_max, "use_max")
        check_flag(with_decoded, "with_decoded")
        thresh = self._chosen_thresholds(thresh)
        if self.data.augmentation is None:
            raise ValueError(
                "test-time augmentation needs an augmentation, and the data's is None; "
                "give it one (augmentation=Augmentation(...)), or use get_preds()."
            )
        loader = require_items(plain_loader(self.data, loader), "tta")
        train = self.data.train_loader.preparation
        augmented = loader_like(loader, loader.items, train)
        answers = self._answers()
        key = jax.random.fold_in(jax.random.key(self.seed), _TTA)
        combine = jnp.maximum if use_max else operator.add

        def answer(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            placed = answers.place(batch)
            keys = (jax.random.fold_in(key, i) for i in range(n))
            said = (answers.augmented(placed, key) for key in keys)
            return {"probabilities": functools.reduce(combine, said)}

        with self._trainer.programs.device_errors():
            rows = gather(answer, augmented.batches())
        plain = self.get_preds(loader).probabilities
        if use_max:
            rows["probabilities"] = np.maximum(rows["probabilities"], plain)
        else:
            mean = rows["probabilities"] / n
            rows["probabilities"] = mean + np.float32(beta) * (plain - mean)
        return self._predictions(rows, loader, with_decoded, thresh)

    def show_results(
        self,
        loader: Any = None,
        *,
        max_n: Integer = 9,
        seed: Integer | None = None,
        columns: Integer | None = None,
        thresh: Any = None,
    ) -> "matplotlib.figure.Figure":
        """Returns a figure of some photos with actual and predicted labels.

        Green where they are the same, red where not; black for numbers.

        Args:
            loader: As in `get_preds`; of loaders jaxtune's own. Of photos without
                labels what is predicted is shown alone.
            max_n: How many photos at most, drawn at random.
            seed: Of that draw; the learner's if None.
            columns: Photos in a row.
            thresh: As in `get_preds`.

        Raises:
            ImportError: If matplotlib is not there.
            TypeError: If an argument is of another type, or the loader's photos can't
                be found again.
            ValueError: If an argument is out of range.
        """
        max_n = check_integer(max_n, "max_n", least=1)
        if seed is not None:
            seed = check_integer(seed, "seed", least=0, most=2**32 - 1)
        if columns is not None:
            columns = check_integer(columns, "columns", least=1)
        thresh = self._chosen_thresholds(thresh)
        loader = require_items(plain_loader(self.data, loader), "show_results")
        random = np.random.RandomState(self.seed if seed is None else seed)
        chosen = np.sort(random.permutation(loader.num_items)[:max_n])
        items = loader.items.take(chosen)
        few = loader_like(loader, items, loader.preparation)
        found = self.get_preds(few, with_decoded=True, thresh=thresh)
        photos = [few.preparation(items.photo(int(i)))[0] for i in found.index]
        said = [items.label_text(row) or "none" for row in found.decoded]
        if found.targets is None:
            return image_grid(photos, said, columns=columns, title="Predicted")
        actual = [items.label_text(row) or "none" for row in found.targets]
        colors = None
        if items.kind != "regression":
            pairs = zip(actual, said, strict=True)
            colors = [_RIGHT if a == s else _WRONG for a, s in pairs]
        titles = [f"{a}\n{s}" for a, s in zip(actual, said, strict=True)]
        return image_grid(
            photos,
            titles,
            columns=columns,
            title_colors=colors,
            title="Actual\nPredicted",
        )

    def interpret(self, loader: Any = None, *, thresh: Any = None) -> Interpretation:
        """Returns top losses, confusion, reports: what fits the kind of labels.

        Args:
            loader: As in `get_preds`; of loaders jaxtune's own. Labels are needed:
                those of photos are taken from the folders that they lie in, where these
                are named like the classes, or are given with
                `data.test_loader(photos, labels=[...])`.
            thresh: As in `get_preds`.

        Returns:
            A `ClassificationInterpretation`, or for numbers a
            `RegressionInterpretation`.

        Raises:
            ValueError: If there are no labels, or they don't fit.
            TypeError: If an argument is of another type.
        """
        regression = self.data.kind == "regression"
        chosen = (
            RegressionInterpretation if regression else ClassificationInterpretation
        )
        return chosen.from_learner(self, loader, thresh=thresh)

    def _predictions(
        self, rows: dict[str, np.ndarray], loader: Any, with_decoded: bool, thresh: Any
    ) -> Predictions:
        said = rows["probabilities"]
        bad = (~np.isfinite(said)).any(axis=1)
        warn_not_finite(int(bad.sum()), len(said))
        return Predictions(
            probabilities=said,
            targets=rows["label"] if is_labelled(loader) else None,
            index=rows["index"],
            decoded=decode(said, self.data.kind, thresh) if with_decoded else None,
            losses=rows.get("losses"),
        )
