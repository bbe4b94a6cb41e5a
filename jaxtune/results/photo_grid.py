"""Photos with their actual and predicted labels, as a figure."""

import numpy as np

from jaxtune.data import Loader
from jaxtune.plots import image_grid
from jaxtune.results.inference import Inference
from jaxtune.results.predictions import loader_like
from jaxtune.results.thresholds import decode

#: Title colours of right and wrong predictions.
_RIGHT, _WRONG = "#1a7f37", "#cf222e"


def plot_results(
    inference: Inference,
    loader: Loader,
    *,
    max_n: int,
    seed: int,
    columns: int | None = None,
    thresholds: np.ndarray | None = None,
) -> "matplotlib.figure.Figure":
    """Returns a figure of some photos of a loader; see `Learner.show_results`.

    Args:
        inference: Computes the predictions.
        loader: A jaxtune loader; without labels, only predictions are shown.
        max_n: Maximum number of photos, drawn at random.
        seed: Seed of that draw.
        columns: Photos in a row.
        thresholds: Multi-label: threshold of each class.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    random = np.random.RandomState(seed)
    chosen = np.sort(random.permutation(loader.num_items)[:max_n])
    items = loader.items.take(chosen)
    few = loader_like(loader, items, loader.preparation)
    rows = inference.rows(few)
    decoded = decode(rows["probabilities"], items.kind, thresholds)
    photos = [few.preparation(items.photo(int(i)))[0] for i in rows["index"]]
    predicted = [items.label_text(row) or "none" for row in decoded]
    if not items.labelled:
        return image_grid(photos, predicted, columns=columns, title="Predicted")
    actual = [items.label_text(row) or "none" for row in rows["label"]]
    colors = None
    if items.kind != "regression":
        pairs = zip(actual, predicted, strict=True)
        colors = [_RIGHT if a == s else _WRONG for a, s in pairs]
    titles = [f"{a}\n{s}" for a, s in zip(actual, predicted, strict=True)]
    return image_grid(
        photos,
        titles,
        columns=columns,
        title_colors=colors,
        title="Actual\nPredicted",
    )
