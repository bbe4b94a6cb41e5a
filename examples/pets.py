r"""Photos whose label is in the file's name: fastai's lesson on the breeds of pets.

    python examples/pets.py images --arch resnet34 --size 224 --epochs 3

takes the folder `images` of the Oxford-IIIT pets as it is: `great_pyrenees_173.jpg` and
7389 others, 37 breeds (https://www.robots.ox.ac.uk/~vgg/data/pets/, images.tar.gz). Any
flat folder of such names will do. One is made from class folders, here 1650 photos of
five flowers, by

    mkdir images; for f in flowers5/*/*/*; do n=$((n+1)); \
    cp "$f" images/$(basename $(dirname "$f"))_$n.jpg; done

and then, on a CPU,

    python examples/pets.py images --arch resnet18 --size 96 --epochs 2 --batch-size 32

ends with error_rate 0.139394. `--out pictures` writes the lesson's pictures.
"""

import argparse
from pathlib import Path

from jaxtune import (
    ARCHITECTURES,
    ImageDataLoaders,
    aug_transforms,
    error_rate,
    vision_learner,
)


def main(argv=None, arch=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="a folder of <label>_<number>.jpg")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet34")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for pictures")
    args = parser.parse_args(argv)

    data = ImageDataLoaders.from_name_re(
        args.photos,
        r"^(.*)_\d+.jpg$",
        valid_pct=0.2,
        # Decoded to this size once; then every crop, turn and tilt is one resampling.
        presize=2 * args.size,
        size=args.size,
        augmentation=aug_transforms(min_scale=0.75),
        batch_size=args.batch_size,
        seed=args.seed,
    )
    print(data)
    model = vision_learner(data, arch or ARCHITECTURES[args.arch], metrics=error_rate)
    found = model.lr_find()
    model.fine_tune(args.epochs, found.valley)

    interp = model.interpret()
    print("most confused: actual, predicted, how often")
    for pair in interp.most_confused()[:5]:
        print("  ", *pair)
    print("largest losses")
    for loss, _, path in zip(*interp.top_losses(5, items=True), strict=True):
        print(f"   {loss:.3f}  {path.name}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        data.show_batch().savefig(args.out / "batch.png")
        found.plot().savefig(args.out / "lr_find.png")
        model.show_results().savefig(args.out / "results.png")
        interp.plot_top_losses(9, heatmap=True).savefig(args.out / "top_losses.png")
        interp.plot_confusion_matrix().savefig(args.out / "confusion.png")
    return model, interp


if __name__ == "__main__":
    main()
