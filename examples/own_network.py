"""A network of one's own: an NNX module that jaxtune has never heard of.

    python examples/own_network.py photos/flowers5 photos/hymenoptera --size 64

It is trained on the first photos (1250 of five flowers), cut before its classifier, and
fine-tuned on the second (244 of ants and bees). The control is the same network with
random values, trained as long on the second photos alone. On two CPU cores, error rates
with three seeds, and their means (a single one moves by two hundredths with the cores):

    first photos 0.337500
    fine-tuned   0.326797 0.326797 0.320261  mean 0.324619
    from scratch 0.326797 0.346405 0.366013  mean 0.346405
"""

import argparse
from pathlib import Path

from flax import nnx

from jaxtune import (
    ImageDataLoaders,
    create_body,
    error_rate,
    inspect_cuts,
    vision_learner,
)


class Stage(nnx.Module):
    """Halves height and width, then adds what a second convolution sees."""

    def __init__(self, inputs, outputs, *, rngs):
        self.down = nnx.Conv(inputs, outputs, (3, 3), strides=2, rngs=rngs)
        # Flax's default momentum, 0.99, is too slow for runs of a few hundred steps.
        self.norm1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.down(x)))
        return nnx.relu(x + self.norm2(self.conv(x)))


class MyNetwork(nnx.Module):
    def __init__(self, num_classes=10, *, rngs):
        self.stem = nnx.Conv(3, 24, (3, 3), strides=2, rngs=rngs)
        widths = [(24, 48), (48, 96), (96, 192)]
        self.stages = nnx.List(Stage(a, b, rngs=rngs) for a, b in widths)
        self.classifier = nnx.Linear(192, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.classifier(x.mean((1, 2)))


#: Which parameters train together, first to last, by their paths.
GROUPS = {
    "first": r"body\.(stem|stages\.0)\.",
    "last": r"body\.stages\.[12]\.",
    "head": r"head\.",
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", type=Path, help="photos to learn to see with")
    parser.add_argument("second", type=Path, help="photos to fine-tune on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3, help="with seeds from that on")
    args = parser.parse_args(argv)
    first, second = (
        ImageDataLoaders.from_folder(
            photos,
            valid="val" if (photos / "val").is_dir() else "valid",
            size=args.size,
            batch_size=args.batch_size,
            seed=args.seed,
        )
        for photos in (args.first, args.second)
    )

    network = MyNetwork(rngs=nnx.Rngs(args.seed))
    print("it can be cut at")
    for place in inspect_cuts(network):
        print(" ", place)
    common = {"groups": GROUPS, "metrics": error_rate, "hidden": ()}
    before = vision_learner(
        first, network, cut="stages.2", pretrained=False, lr=5e-3, **common
    )
    before.fit_one_cycle(args.epochs)

    # Features of 1250 photos are not those of a million: they may move half as fast as
    # the head, not a hundredth, which is the default.
    rates = {"base_lr": 1e-2, "lr_mult": 2}
    errors = {"fine-tuned": [], "from scratch": []}
    for seed in range(args.seed, args.seed + args.runs):
        # What was learned is in the module; it is a body already: nothing is cut.
        body = nnx.clone(before.model[0])
        model = vision_learner(second, body=body, seed=seed, **common)
        model.fine_tune(args.epochs - 1, **rates)
        body = create_body(MyNetwork(rngs=nnx.Rngs(seed)), "stages.2")
        control = vision_learner(
            second, body=body, pretrained=False, lr=5e-3, seed=seed, **common
        )
        control.fit_one_cycle(args.epochs)
        for name, learner in zip(errors, (model, control), strict=True):
            errors[name].append(learner.validate()["error_rate"])
    print(model.plan(args.epochs - 1, **rates))
    print(model.diff(since="start"))
    print(f"first photos {before.validate()['error_rate']:.6f}")
    for name, found in errors.items():
        listed = " ".join(f"{error:.6f}" for error in found)
        print(f"{name:<12} {listed}  mean {sum(found) / len(found):.6f}")
    return model, control, errors


if __name__ == "__main__":
    main()
