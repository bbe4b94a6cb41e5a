"""Several labels for each photo, from a CSV file.

    python examples/multi_label.py photos/flowers5 --size 80 --epochs 2

The photos are made from folders of one flower each: two flowers side by side, listed
in `labels.csv` as "tulip daisy", which is all that is looked at then. With resnet18 and
five flowers, 500 pairs to train on and 125 to validate, on two CPU cores,

    accuracy_multi 0.817600 at 0.5

of the five yes-or-no answers for each pair are right; 0.6 would be, if all were no.
Other thresholds are tried. Of a photo of one flower, the network, which has only seen
pairs, still names two: the right one and another.

    one flower alone: found in 0.927, 1.85 flowers named each
"""

import argparse
import csv
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from jaxtune import (
    Augmentation,
    ImageDataLoaders,
    accuracy_multi,
    resnet18,
    vision_learner,
)


def make_pairs(photos, folder, *, count, size, seed):
    """Writes pictures (size, 2 * size) of two different flowers, and labels.csv."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, pairs in (("train", count), ("valid", count // 4)):
        paths = sorted((photos / split).glob("*/*.*"))
        while pairs:
            one, two = (paths[i] for i in rng.choice(len(paths), 2, replace=False))
            labels = one.parent.name, two.parent.name
            if labels[0] == labels[1]:
                continue
            picture = Image.new("RGB", (2 * size, size))
            for left, path in ((0, one), (size, two)):
                photo = Image.open(path).convert("RGB")
                picture.paste(ImageOps.fit(photo, (size, size)), (left, 0))
            name = f"{len(rows)}.png"
            picture.save(folder / name)
            rows.append((name, " ".join(labels), split == "valid"))
            pairs -= 1
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "flowers", "is_valid"), *rows])


def main(argv=None, arch=resnet18):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="height, in pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=500, help="photos to train on")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        size = 8 * args.size // 7  # a little more than the network sees, for crops
        make_pairs(
            args.photos, Path(folder), count=args.pairs, size=size, seed=args.seed
        )
        data = ImageDataLoaders.from_csv(
            folder,
            label_delim=" ",
            valid_col="is_valid",
            size=(args.size, 2 * args.size),
            # By default a crop may be a third of a photo: one flower, with two labels.
            augmentation=Augmentation(min_scale=0.8),
            batch_size=args.batch_size,
            seed=args.seed,
        )
        print(data)
        model = vision_learner(data, arch, metrics=accuracy_multi)
        model.fine_tune(args.epochs)

        probabilities, targets = map(jnp.asarray, model.get_preds())
        for thresh in (0.1, 0.3, 0.5, 0.7, 0.9):
            right = accuracy_multi(probabilities, targets, thresh=thresh, sigmoid=False)
            print(f"accuracy_multi {float(right.mean()):.6f} at {thresh}")
        # A threshold for each flower: chosen on the training photos, judged on others.
        chosen = model.interpret("train").best_thresholds()
        listed = zip(data.classes, chosen, strict=True)
        print("thresholds", ", ".join(f"{name} {one:.2f}" for name, one in listed))
        print(model.interpret(thresh=chosen).report())

    paths = sorted((args.photos / "valid").glob("*/*.*"))
    alone = model.predict(paths)
    found = np.mean(
        [path.parent.name in p.label for path, p in zip(paths, alone, strict=True)]
    )
    named = np.mean([len(p.label) for p in alone])
    print(f"one flower alone: found in {found:.3f}, {named:.2f} flowers named each")
    return model, alone


if __name__ == "__main__":
    main()
