"""Every picture and table of a training: before it, during it and after it.

    python examples/look_inside.py photos/hymenoptera --size 160 --out pictures

writes ten pictures into the folder, and prints what is planned, what moved and a
report by class. The folder of photos holds `train/` and `val/`, each with one folder
per class: here ants and bees, 244 and 153. With resnet18, on a CPU, the last line is

    error_rate 0.124183
"""

import argparse
from pathlib import Path

from jaxtune import (
    ImageDataLoaders,
    aug_transforms,
    error_rate,
    resnet18,
    vision_learner,
)


def main(argv=None, arch=resnet18):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/ or val/")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    def keep(figure, name):
        figure.savefig(args.out / f"{name}.png", dpi=100, bbox_inches="tight")

    data = ImageDataLoaders.from_folder(
        args.photos,
        valid="val" if (args.photos / "val").is_dir() else "valid",
        size=args.size,
        batch_size=args.batch_size,
        augmentation=aug_transforms(min_scale=0.5),
        seed=args.seed,
    )
    keep(data.show_batch(), "batch")
    model = vision_learner(data, arch, metrics=error_rate)

    print(model.plan(args.epochs))
    found = model.lr_find()
    keep(found.plot(), "lr_find")
    model.fine_tune(args.epochs)
    keep(model.history.plot(), "history")

    moved = model.diff()
    print(moved)
    keep(moved.plot(), "diff")
    model.assert_frozen()
    keep(model.plot_kernels(before=1), "kernels")

    keep(model.show_results(), "results")
    interp = model.interpret()
    keep(interp.plot_confusion_matrix(), "confusion")
    keep(interp.plot_top_losses(9), "top_losses")
    keep(interp.plot_top_losses(9, heatmap=True), "top_losses_heatmap")
    print(interp.report())
    print(interp.most_confused())
    photo = data.valid_loader.items.paths[0]
    keep(model.grad_cam(photo).plot(), "grad_cam")

    plain = model.validate()
    print(f"error_rate {plain['error_rate']:.6f}")
    return model


if __name__ == "__main__":
    main()
