"""The learner's `fine_tune` without the learner, by pure functions: the same numbers.

    python examples/pure_functions.py photos/hymenoptera --epochs 1 --size 128

The folder holds `train/` and `val/`, each with one folder per class: here ants and
bees, 244 and 153 photos. With resnet18 it prints, on a CPU:

    train_loss 0.833379  valid_loss 0.284983  error_rate 0.091503
    train_loss 0.461547  valid_loss 0.348160  error_rate 0.078431

`--check` runs `vision_learner(...).fine_tune(...)` too, and compares every parameter,
every statistic and every figure, bit for bit.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageDataLoaders,
    TrainState,
    compile_step,
    create_cnn_model,
    cross_entropy,
    default_groups,
    error_rate,
    evaluating,
    fine_tune_phases,
    group_labels,
    group_optimizer,
    make_eval_step,
    make_train_step,
    no_decay_paths,
    optimizer_labels,
    resnet18,
    split_module,
    training_images,
    training_view,
    validation_images,
    vision_learner,
)


def fine_tune(data, arch, *, epochs, freeze_epochs=1, base_lr=2e-3, seed=0, **head):
    """Returns the trained network, and a dict of figures for each epoch."""
    net = create_cnn_model(arch, data.num_classes, rngs=nnx.Rngs(seed), **head)
    _, params, model_state = split_module(net)
    groups = default_groups(net)
    labels = group_labels(params, groups)
    colours = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    eval_graphdef = nnx.graphdef(evaluating(net))
    eval_step = compile_step(
        make_eval_step(
            eval_graphdef,
            loss=cross_entropy,
            metrics={"error_rate": error_rate},
            prepare=lambda batch: validation_images(batch["image"], **colours),
        )
    )
    key, step, rows = jax.random.key(seed), jnp.int32(0), []
    for phase in fine_tune_phases(
        len(groups),
        len(data.train_loader),
        epochs,
        base_lr,
        freeze_epochs=freeze_epochs,
    ):
        frozen = tuple(groups)[: phase.boundary]
        trained = optimizer_labels(labels, frozen)
        tx = group_optimizer(
            trained,
            dict(zip(groups, phase.rates, strict=True)),
            phase.schedule,
            weight_decay=phase.weight_decay,
            no_decay=no_decay_paths(net),
        )
        train_step = compile_step(
            make_train_step(
                nnx.graphdef(
                    # A pretrained body keeps its running statistics while it trains.
                    training_view(net, labels, frozen, running=tuple(groups)[:-1])
                ),
                tx,
                loss=cross_entropy,
                labels=trained,
                prepare=functools.partial(
                    training_images,
                    size=data.size,
                    augmentation=data.augmentation,
                    **colours,
                ),
            ),
            donate=True,
        )
        state = TrainState.create(params, model_state, tx).replace(step=step)
        for _ in range(phase.epochs):
            trained_on, epoch_key = [], jax.random.fold_in(key, len(rows))
            for batch in data.train_loader.batches(len(rows)):
                state, measured = train_step(state, batch, epoch_key)
                trained_on.append(measured)
            values = params, model_state = state.params, state.model_state
            seen = [eval_step(*values, batch) for batch in data.valid_loader.batches()]
            rows.append(figures(trained_on, seen))
        step = state.step
    return nnx.merge(eval_graphdef, params, model_state), rows


def figures(trained_on, seen):
    """Means over an epoch's photos: of the batches' mean losses, and of sums."""
    losses, counts = (
        np.asarray([batch[name] for batch in trained_on], np.float64)
        for name in ("loss", "count")
    )
    total = dict.fromkeys(seen[0], 0.0)
    for sums in seen:
        total = {name: total[name] + float(sums[name]) for name in total}
    return {
        "train_loss": float((losses * counts).sum() / counts.sum()),
        "valid_loss": total["loss"] / total["count"],
        "error_rate": total["error_rate"] / total["count"],
    }


def check(data, arch, net, rows, options):
    """Raises unless the learner comes to the same bits."""
    model = vision_learner(
        data, arch, metrics=error_rate, seed=options["seed"], verbose=False
    )
    history = model.fine_tune(options["epochs"], freeze_epochs=options["freeze_epochs"])
    theirs = [{name: row.as_dict()[name] for name in rows[0]} for row in history]
    ours, learners = (
        [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(split_module(m)[1:])]
        for m in (net, model.model)
    )
    if ours != learners or rows != theirs:
        raise SystemExit(f"the learner differs:\n{rows}\n{theirs}")
    print(f"the learner has the same figures and the same {len(ours)} arrays")


def main(argv=None, arch=resnet18):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/ or val/")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--freeze-epochs", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="run the learner too")
    args = parser.parse_args(argv)
    data = ImageDataLoaders.from_folder(
        args.photos,
        valid="val" if (args.photos / "val").is_dir() else "valid",
        size=args.size,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    options = {name: vars(args)[name] for name in ("epochs", "freeze_epochs", "seed")}
    net, rows = fine_tune(data, arch, **options)
    for row in rows:
        print("  ".join(f"{name} {value:.6f}" for name, value in row.items()))
    if args.check:
        check(data, arch, net, rows, options)
    return net, rows


if __name__ == "__main__":
    main()
