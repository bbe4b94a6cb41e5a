"""A plain Flax NNX and Optax script, with only jaxtune's weights and surgery in it.

    python examples/plain_flax.py photos/hymenoptera --epochs 1 --size 128

The body of a published ResNet is an `nnx.Module` like any other. It is frozen by
`optax.multi_transform` with `optax.set_to_zero`, then trains. With resnet18, ants and
bees, on a CPU:

    head only  train_loss 0.527460  error_rate 0.176471
    everything  train_loss 0.389662  error_rate 0.111111
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from PIL import Image, ImageOps

from jaxtune import create_body, group_labels, num_features, resnet18

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
GROUPS = {"body": r"body\.", "head": r"head\."}


class Classifier(nnx.Module):
    def __init__(self, body, num_features, num_classes, *, rngs):
        self.body = body
        zeros = nnx.initializers.zeros
        self.head = nnx.Linear(num_features, num_classes, kernel_init=zeros, rngs=rngs)

    def __call__(self, images):
        return self.head(self.body(images).mean((1, 2)))


def load_photos(folder, size):
    """Images float32 (n, size, size, 3), normalised, and labels int32 (n,)."""
    paths = sorted(path for path in folder.glob("*/*") if path.is_file())
    classes = sorted({path.parent.name for path in paths})
    images = np.stack(
        [ImageOps.fit(Image.open(path).convert("RGB"), (size, size)) for path in paths]
    )
    labels = np.asarray([classes.index(path.parent.name) for path in paths], np.int32)
    return (images.astype(np.float32) / 255 - MEAN) / STD, labels


def make_optimizer(model, rates):
    """One Adam for each group of layers that has a rate; the others stand still."""
    labels = group_labels(nnx.as_pure(nnx.state(model, nnx.Param)), GROUPS)
    transforms = {
        name: optax.adam(rates[name]) if name in rates else optax.set_to_zero()
        for name in GROUPS
    }
    tx = optax.multi_transform(transforms, labels)
    return nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, images, labels):
    def mean_loss(model):
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = nnx.value_and_grad(mean_loss)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def count_right(model, images, labels):
    return (model(images).argmax(-1) == labels).sum()


def run_epoch(model, optimizer, images, labels, batch_size, rng):
    """Returns the mean training loss."""
    order = rng.permutation(len(labels))
    batches = np.split(order, range(batch_size, len(order), batch_size))
    full = [batch for batch in batches if len(batch) == batch_size]
    losses = [
        train_step(model, optimizer, images[batch], labels[batch]) for batch in full
    ]
    return float(np.mean(jax.device_get(losses)))


def main(argv=None, network=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/ or val/")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--freeze-epochs", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    valid = "val" if (args.photos / "val").is_dir() else "valid"
    images, labels = load_photos(args.photos / "train", args.size)
    valid_images, valid_labels = load_photos(args.photos / valid, args.size)

    body = create_body(resnet18(pretrained=True) if network is None else network)
    rngs, rng = nnx.Rngs(args.seed), np.random.default_rng(args.seed)
    model = Classifier(body, num_features(body), int(labels.max()) + 1, rngs=rngs)
    rows = []
    for name, epochs, rates in (
        ("head only", args.freeze_epochs, {"head": 2e-3}),
        ("everything", args.epochs, {"body": 5e-5, "head": 1e-3}),
    ):
        optimizer = make_optimizer(model, rates)
        for _ in range(epochs):
            # A frozen body's batch norms use, and leave alone, their own statistics.
            model.train() if "body" in rates else model.eval()
            loss = run_epoch(model, optimizer, images, labels, args.batch_size, rng)
            model.eval()
            parts = range(0, len(valid_labels), args.batch_size)
            right = sum(
                int(
                    count_right(
                        model,
                        valid_images[i : i + args.batch_size],
                        valid_labels[i : i + args.batch_size],
                    )
                )
                for i in parts
            )
            error = 1 - right / len(valid_labels)
            print(f"{name}  train_loss {loss:.6f}  error_rate {error:.6f}")
            rows.append((name, loss, error))
    return model, rows


if __name__ == "__main__":
    main()
