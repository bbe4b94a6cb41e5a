"""A network from another library of NNX models, jaxnn, fine-tuned like one of jaxtune.

    pip install jaxnn
    python examples/other_library.py photos/hymenoptera --epochs 1 --size 128

`jaxnn.create_model("resnet18.a1_in1k", pretrained=True)` comes with weights of its own;
here it is filled with torchvision's, so that it can be compared: its feature maps are
those of jaxtune's resnet18, but for rounding. With ants and bees, on a CPU:

    train_loss 0.833111  valid_loss 0.284682  error_rate 0.091503
    train_loss 0.500595  valid_loss 0.286738  error_rate 0.111111

The first epoch is that of examples/pure_functions.py to the last digit; in the second,
jaxnn's running statistics move ten times more slowly (by 0.01 of the way in a step).
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxtune import (
    ImageDataLoaders,
    create_body,
    error_rate,
    evaluating,
    inspect_cuts,
    read_weights,
    resnet18,
    vision_learner,
)

#: jaxnn's names, and the published ones.
NAMES = {
    "stage_modules.0.layers": "layer1",
    "stage_modules.1.layers": "layer2",
    "stage_modules.2.layers": "layer3",
    "stage_modules.3.layers": "layer4",
    "downsample.conv": "downsample.0",
    "downsample.bn": "downsample.1",
    "fc.fc": "fc",
    ".kernel": ".weight",
    ".scale": ".weight",
    ".mean": ".running_mean",
    ".var": ".running_var",
}

#: Layer groups, first to last, by the library's paths.
GROUPS = {
    "early": r"body\.(conv1|bn1|stage_modules\.[01])\.",
    "late": r"body\.stage_modules\.[23]\.",
    "head": r"head\.",
}


def fill(network, weights):
    """Puts published arrays, in PyTorch's layout, into a module with other names."""
    for path, variable in nnx.to_flat_state(nnx.state(network)):
        name = ".".join(map(str, path))
        for theirs, published in NAMES.items():
            name = name.replace(theirs, published)
        array = weights[name]
        if path[-1] == "kernel":  # out, in, ... becomes ..., in, out
            array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
        variable[...] = jax.numpy.asarray(array)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/ or val/")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    data = ImageDataLoaders.from_folder(
        args.photos,
        valid="val" if (args.photos / "val").is_dir() else "valid",
        size=args.size,
        batch_size=args.batch_size,
        seed=args.seed,
    )

    import jaxnn  # here, so that --help works without it

    network = jaxnn.create_model("resnet18")
    fill(network, read_weights(resnet18.resolve().path))
    print("it can be cut at")
    for place in inspect_cuts(network):
        print(" ", place)

    images = jax.random.normal(jax.random.key(0), (2, args.size, args.size, 3))
    ours = create_body(resnet18(pretrained=True))
    maps = [evaluating(body)(images) for body in (create_body(network), ours)]
    apart = float(np.abs(maps[0] - maps[1]).max() / np.abs(maps[1]).max())
    print(f"its feature maps differ from those of jaxtune's resnet18 by {apart:.1e}")

    model = vision_learner(
        data, network, cut="stage_modules.3", groups=GROUPS, metrics=error_rate
    )
    print(model.plan(args.epochs))
    for row in model.fine_tune(args.epochs):
        figures = {"train_loss": row.train_loss, "valid_loss": row.valid_loss}
        figures |= row.metrics
        print("  ".join(f"{name} {value:.6f}" for name, value in figures.items()))
    model.assert_frozen()
    return model, apart


if __name__ == "__main__":
    main()
