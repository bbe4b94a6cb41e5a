"""Every picture and table of a training: before it, during it and after it.

    python examples/look_inside.py photos/hymenoptera --size 160 --out pictures

writes fourteen pictures into the folder, and prints what is planned, what moved and a
report by class. The folder of photos holds `train/` and `val/`, each with one folder
per class: here ants and bees, 244 and 153. With resnet18, on a CPU, it comes to

    error_rate 0.058824

Another network then learns to say a number, how bright a photo is, for the pictures
that numbers have.
"""

import argparse
from pathlib import Path

from jaxtune import (
    ImageDataLoaders,
    aug_transforms,
    error_rate,
    load_image,
    mae,
    plot_grad_cams,
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
    keep(interp.plot_report(), "report")
    print(interp.report())
    print(interp.most_confused())
    photos = data.valid_items.paths[:: len(data.valid_items) // 8]
    keep(model.grad_cam(photos[0]).plot(), "grad_cam")
    keep(plot_grad_cams([model.grad_cam(photo) for photo in photos]), "grad_cams")
    print(f"error_rate {model.validate()['error_rate']:.6f}")

    numbers = ImageDataLoaders.from_path_func(
        args.photos,
        lambda path: float(load_image(path).mean() / 255),
        size=args.size,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    model = vision_learner(numbers, arch, metrics=mae, y_range=(0, 1))
    model.fine_tune(1)
    keep(model.show_results(), "numbers")
    keep(model.interpret().plot_residuals(), "residuals")
    print(f"brightness, mean absolute error {model.validate()['mae']:.6f}")
    return model


if __name__ == "__main__":
    main()
