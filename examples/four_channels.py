"""Images of four channels: colours, and one more that is computed from each photo.

    python examples/four_channels.py photos/flowers5 --size 80 --out pictures

The fourth channel is the strength of edges, which says what is in focus. The published
first convolution knows three: `channel_init="zero"` begins the fourth's weights at
nothing, so the body says of a photo what it says of its colours alone; "repeat" begins
them as those of red, and scales all down. With resnet18 and five flowers, on a CPU,
after the epochs with the body frozen, and one more in which everything trains:

    colours only  error_rate 0.237500  0.230000
    zero          error_rate 0.237500  0.232500
    repeat        error_rate 0.262500  0.230000
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxtune import ImageDataLoaders, error_rate, resnet18, vision_learner
from jaxtune.plots import image_grid


def add_edges(rgb):
    """Returns uint8 (h, w, 4) for uint8 (h, w, 3)."""
    down, right = np.gradient(rgb.astype(np.float32).mean(axis=-1))
    edges = np.clip(4 * np.hypot(down, right), 0, 255).astype(np.uint8)
    return np.dstack([rgb, edges])


def read(folder, size):
    """Returns images uint8 (n, size, size, 4), and their labels."""
    paths = sorted(folder.glob("*/*.*"))
    photos = (Image.open(path).convert("RGB") for path in paths)
    images = [add_edges(np.asarray(ImageOps.fit(p, (size, size)))) for p in photos]
    return np.stack(images), [path.parent.name for path in paths]


def fourth_kernels(network):
    """Returns a figure of the first weights of the fourth channel; 0 is grey."""
    weights = np.asarray(network[0].conv1.weight[...])[:, :, 3]
    pictures = 0.5 + 0.5 * weights / np.abs(weights).max()
    return image_grid(list(np.moveaxis(pictures, -1, 0)), columns=8)


def main(argv=None, arch=resnet18):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for pictures")
    args = parser.parse_args(argv)

    # A little more than the network sees, for crops.
    size = args.size * 8 // 7
    train, valid = (read(args.photos / split, size) for split in ("train", "valid"))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        few = train[0][:: len(train[0]) // 4][:4]
        shown = [part for image in few for part in (image[..., :3], image[..., 3])]
        image_grid(shown, columns=4).savefig(args.out / "edges.png")
    histories = {}
    for name in ("colours only", "zero", "repeat"):
        channels = 3 if name == "colours only" else 4
        data = ImageDataLoaders.from_arrays(
            (train[0][..., :channels], train[1]),
            (valid[0][..., :channels], valid[1]),
            size=args.size,
            batch_size=args.batch_size,
            seed=args.seed,
        )
        init = "zero" if channels == 3 else name
        model = vision_learner(data, arch, channel_init=init, metrics=error_rate)
        histories[name] = model.fine_tune(args.epochs)
        if args.out and channels == 4:
            model.plot_kernels(before=1).savefig(args.out / f"kernels_{name}.png")
            fourth_kernels(model.model).savefig(args.out / f"fourth_{name}.png")
    for name, rows in histories.items():
        head_alone = [row for row in rows if row.phase == 1][-1]
        frozen, trained = (x.metrics["error_rate"] for x in (head_alone, rows[-1]))
        print(f"{name:<13} error_rate {frozen:.6f}  {trained:.6f}")
    return model, histories


if __name__ == "__main__":
    main()
