"""Your own loss, head, optimizer and loop, with jaxtune's body, labels and steps.

    python examples/own_parts.py photos/hymenoptera --epochs 1 --size 128

The loss is focal, the head pools by a learned generalised mean, the optimizer is Lion
with a rate for each layer group, and the loop keeps a running average of all
parameters, which is what is validated. With resnet18, ants and bees, on a CPU:

    train_loss 0.316801  valid_loss 0.186349  accuracy 0.686275
    train_loss 0.198712  valid_loss 0.095829  accuracy 0.875817
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxtune import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageDataLoaders,
    Sequential,
    TrainState,
    accuracy,
    compile_step,
    create_body,
    default_groups,
    evaluating,
    group_labels,
    group_optimizer,
    make_eval_step,
    make_train_step,
    no_decay_paths,
    num_features,
    one_cycle,
    optimizer_labels,
    resnet18,
    split_module,
    training_images,
    training_view,
    validation_images,
)

COLOURS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def focal(logits, label, gamma=2.0):
    """Cross-entropy that looks away from what is easy (arXiv:1708.02002), per row."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    own = jnp.take_along_axis(log_p, label[:, None], axis=-1)[:, 0]
    return -((1 - jnp.exp(own)) ** gamma) * own


class GeMHead(nnx.Module):
    """A generalised mean over places (arXiv:1711.02512), then one linear layer."""

    def __init__(self, num_features, num_classes, *, rngs):
        self.power = nnx.Param(jnp.asarray(3.0))
        self.norm = nnx.LayerNorm(num_features, rngs=rngs)
        self.linear = nnx.Linear(num_features, num_classes, rngs=rngs)

    def __call__(self, features):
        power = self.power[...]
        x = (jnp.maximum(features, 1e-6) ** power).mean((1, 2)) ** (1 / power)
        return self.linear(self.norm(x))


def lion(*, learning_rate, momentum, weight_decay, mask):
    """An optimizer is made from a step's numbers; see `jaxtune.train.Optimizer`."""
    return optax.lion(
        learning_rate, b1=momentum, b2=0.99, weight_decay=weight_decay, mask=mask
    )


def make_step(net, labels, frozen, tx, data, *, momentum):
    """One step of training, and of the running average of the parameters."""
    train_step = make_train_step(
        nnx.graphdef(training_view(net, labels, frozen)),
        tx,
        loss=focal,
        labels=optimizer_labels(labels, frozen),
        prepare=functools.partial(
            training_images, size=data.size, augmentation=data.augmentation, **COLOURS
        ),
    )

    def step(state, average, batch, key):
        state, metrics = train_step(state, batch, key)
        return state, optax.incremental_update(state.params, average, momentum), metrics

    return compile_step(step)


def train(data, network, *, epochs, freeze_epochs, rate=2e-3, momentum=0.2, seed=0):
    """Yields (train state, running average, figures) after each epoch."""
    body = create_body(network)
    head = GeMHead(num_features(body), data.num_classes, rngs=nnx.Rngs(seed))
    net = Sequential({"body": body, "head": head})
    _, params, model_state = split_module(net)
    groups = default_groups(net)
    labels = group_labels(params, groups)
    eval_step = compile_step(
        make_eval_step(
            nnx.graphdef(evaluating(net)),
            loss=focal,
            metrics={"accuracy": accuracy},
            prepare=lambda batch: validation_images(batch["image"], **COLOURS),
        )
    )
    average, epoch = params, 0
    early, late, last = groups
    for frozen, count, rates in (
        ((early, late), freeze_epochs, {last: rate}),
        ((), epochs, {early: rate / 100, late: rate / 10, last: rate / 2}),
    ):
        tx = group_optimizer(
            optimizer_labels(labels, frozen),
            rates,
            one_cycle(max(count, 1) * len(data.train_loader)),
            optimizer=lion,
            no_decay=no_decay_paths(net),
        )
        step = make_step(net, labels, frozen, tx, data, momentum=momentum)
        state = TrainState.create(params, model_state, tx)
        for _ in range(count):
            key = jax.random.fold_in(jax.random.key(seed), epoch)
            losses = []
            for batch in data.train_loader.batches(epoch):
                state, average, metrics = step(state, average, batch, key)
                losses.append(metrics["loss"])
            total = jax.tree.map(
                lambda *sums: sum(map(float, sums)),
                *(
                    eval_step(average, state.model_state, batch)
                    for batch in data.valid_loader.batches()
                ),
            )
            epoch += 1
            yield (
                state,
                average,
                {
                    "train_loss": sum(map(float, losses)) / len(losses),
                    "valid_loss": total["loss"] / total["count"],
                    "accuracy": total["accuracy"] / total["count"],
                },
            )
        params, model_state = state.params, state.model_state


def main(argv=None, network=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/ or val/")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--freeze-epochs", type=int, default=1)
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
    done = []
    for state, average, figures in train(
        data,
        resnet18(pretrained=True) if network is None else network,
        epochs=args.epochs,
        freeze_epochs=args.freeze_epochs,
        seed=args.seed,
    ):
        print("  ".join(f"{name} {value:.6f}" for name, value in figures.items()))
        done.append((state, average, figures))
    return done


if __name__ == "__main__":
    main()
