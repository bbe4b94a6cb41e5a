"""Which recipe to choose: error rates by splits of training folders.

    python -m benchmarks.recipes hymenoptera/train flowers5/train --splits 3

Each folder has one subfolder a class. For each split a part of every class trains (at
most `--per-class` photos) and another validates; the photos that a report is made on,
those of validation folders, are never looked at. All recipes see the same splits and
seeds, so they are compared in pairs: the table has each one's mean error, its mean rank
over folders and splits, and its mean difference to the first recipe with a confidence
interval of 95 % (bootstrap over folders and splits).

With `--kind multi` and `--kind regression` the same photos are joined in pairs, side by
side: to be found are both classes (the error is the share of wrong labels), or where
the seam is (the mean distance, as a share of the width).

ResNet-18 with ImageNet weights, 128 px, batches of 32. One line of JSON for each run,
then a table. Some 40 seconds a run for 300 photos on two cores.
"""

import argparse
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.measure import say, table

#: Options of the data, of the learner and of the call; the first is fastai's.
RECIPES = {
    "fastai": ({}, {}, {"recipe": "fastai"}),
    "default": ({}, {}, {}),
    "fast": ({}, {}, {"recipe": "fast"}),
    "one frozen epoch": ({}, {}, {"freeze_epochs": 1}),
    "larger validation": ({"valid_size": 160}, {}, {}),
    "batch statistics": ({}, {"norms": "frozen"}, {}),
    "late groups, lr_mult=20": ({}, {}, {"recipe": "fast", "lr_mult": 20}),
    "twice the rate": ({}, {}, {"base_lr": 4e-3}),
    "half the rate": ({}, {}, {"base_lr": 1e-3}),
    "four frozen epochs": ({}, {}, {"freeze_epochs": 4}),
    "label smoothing": ({}, {"loss": "smooth"}, {}),
    "average of weights": ({}, {"ema_decay": 0.98}, {}),
}


def split(
    classes: Mapping[str, Sequence[str]], per_class: int, seed: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Returns photos to train on and to validate on, by class; no photo is in both.

    A third of each class validates, and at most `per_class` of the others train.

    Args:
        classes: Photos of each class.
        per_class: Most photos of a class to train on.
        seed: Another one gives another split.
    """
    rng = np.random.default_rng(seed)
    train, valid = {}, {}
    for name, photos in sorted(classes.items()):
        photos = [str(photo) for photo in rng.permutation(sorted(photos))]
        third = max(1, len(photos) // 3)
        valid[name], train[name] = photos[:third], photos[third:][:per_class]
    return train, valid


def joined(
    photos: Sequence[str], names: Sequence[str], kind: str, seed: int
) -> tuple[np.ndarray, list]:
    """Returns pictures of two photos side by side, uint8 (n, 192, 192, 3), and labels.

    Args:
        photos: Paths; each is the left one of a picture.
        names: Their classes.
        kind: "multi": the label has both classes; "regression": it is the share of the
            width up to the seam, 0.2 to 0.8.
        seed: Of the pairs and the seams.
    """
    rng, width = np.random.default_rng(seed), 192
    pictures, labels = [], []
    for left, right in enumerate(rng.permutation(len(photos))):
        share = rng.uniform(0.2, 0.8) if kind == "regression" else 0.5
        seam = round(width * share)
        parts = []
        for number, columns in ((left, seam), (right, width - seam)):
            with Image.open(photos[number]) as photo:
                size = (columns, width)
                parts.append(np.asarray(ImageOps.fit(photo.convert("RGB"), size)))
        pictures.append(np.concatenate(parts, 1))
        both = sorted({names[left], names[right]})
        labels.append(seam / width if kind == "regression" else both)
    return np.stack(pictures), labels


def mean_ranks(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns each recipe's mean rank over the cases, 1 for the lowest error.

    Args:
        errors: Of each recipe, one for each case, in the same order. Equal ones share
            their ranks.
    """
    rows = np.array(list(errors.values()))
    below = (rows[None] < rows[:, None]).sum(1)
    equal = (rows[None] == rows[:, None]).sum(1)
    return dict(zip(errors, (below + (equal + 1) / 2).mean(1).tolist(), strict=True))


def interval(differences: Sequence[float], *, draws: int = 10000) -> tuple[float, ...]:
    """Returns the interval of 95 % for a mean, by bootstrap; the same in each call."""
    rng = np.random.default_rng(0)
    values = np.asarray(differences)
    picked = rng.integers(0, len(values), (draws, len(values)))
    return tuple(np.quantile(values[picked].mean(1), [0.025, 0.975]).tolist())


def run(root: Path, recipe: str, per_class: int, seed: int, kind: str) -> dict:
    """Returns the figures of one fine-tuning."""
    import functools

    from jaxtune import ImageDataLoaders, cross_entropy, error_rate, vision_learner
    from jaxtune.data import Augmentation, label_items
    from jaxtune.train import accuracy_multi, mae

    of_data, of_learner, of_call = RECIPES[recipe]
    if of_learner.get("loss") == "smooth":
        smooth = functools.partial(cross_entropy, label_smoothing=0.1)
        of_learner = of_learner | {"loss": smooth}
    classes = {
        folder.name: [str(path) for path in folder.iterdir()]
        for folder in root.iterdir()
        if folder.is_dir()
    }
    items = []
    for part in split(classes, per_class, seed):
        pairs = [(path, name) for name, paths in part.items() for path in paths]
        paths, labels = zip(*pairs, strict=True)
        if kind == "single":
            items.append(label_items([Path(path) for path in paths], list(labels)))
        else:
            items.append(joined(paths, labels, kind, seed))
    began = time.perf_counter()
    options = {"size": 128, "batch_size": 32, "seed": seed} | of_data
    if kind == "single":
        data = ImageDataLoaders(*items, **options)
    else:
        # A crop would move the seam, and a flip turn it round.
        plain = {"augmentation": Augmentation(min_scale=1.0, flip=False), "kind": kind}
        options |= plain if kind == "regression" else {"kind": kind}
        data = ImageDataLoaders.from_arrays(*items, **options)
    metric = {"single": error_rate, "multi": accuracy_multi, "regression": mae}[kind]
    model = vision_learner(
        data, "resnet18", metrics=metric, verbose=False, **of_learner
    )
    history = model.fine_tune(3, **of_call)
    (found,) = history[-1].metrics.values()
    return {
        "data": root.parent.name,
        "recipe": recipe,
        "split": seed,
        "kind": kind,
        "train": len(data.train_items),
        "valid": len(data.valid_items),
        "error_rate": round(1 - found if kind == "multi" else found, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }


def compared(results: Sequence[dict]) -> str:
    """Returns the table: a row for each recipe, over the cases that all have."""
    cases: dict = {}
    for each in results:
        case = each["data"], each["train"], each["split"]
        cases.setdefault(case, {})[each["recipe"]] = each
    names = list(dict.fromkeys(each["recipe"] for each in results))
    whole = [case for case in cases.values() if len(case) == len(names)]
    errors = {n: [case[n]["error_rate"] for case in whole] for n in names}
    ranks, first = mean_ranks(errors), errors[names[0]]
    rows = []
    for name in names:
        apart = [a - b for a, b in zip(errors[name], first, strict=True)]
        low, high = interval(apart)
        times = [case[name]["seconds"] / case[names[0]]["seconds"] for case in whole]
        rows.append(
            [
                name,
                f"{statistics.mean(errors[name]):.3f}",
                f"{ranks[name]:.2f}",
                f"{statistics.mean(apart):+.3f} ({low:+.3f} to {high:+.3f})",
                f"{statistics.median(times):.2f}",
            ]
        )
    columns = ["recipe", "mean error", "mean rank", f"less {names[0]}", "time"]
    return table(columns, rows) + f"\n\n{len(whole)} cases"


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="folders of classes, of training")
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--per-class", type=int, nargs="+", default=[60])
    parser.add_argument(
        "--kind", default="single", choices=["single", "multi", "regression"]
    )
    options = parser.parse_args(argv)
    results = []
    for seed in range(options.splits):
        for name in options.folders:
            root = Path(os.environ["JAXTUNE_DATA_DIR"]) / name
            for per_class in options.per_class:
                for recipe in options.recipe:
                    results.append(run(root, recipe, per_class, seed, options.kind))
                    say(results[-1])
    print(compared(results))
    return results


if __name__ == "__main__":
    main()
