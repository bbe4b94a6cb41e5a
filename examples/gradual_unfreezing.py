"""Gradual unfreezing with slanted triangular rates (ULMFiT), beside `fine_tune`.

    python examples/gradual_unfreezing.py photos/hymenoptera --size 96

Howard and Ruder (https://arxiv.org/abs/1801.06146) train the last layer group alone,
then one group more in each phase; each group's rate is that of the next one / 2.6, and
rates rise fast and fall slowly. Here with a group for each stage of a ResNet-18, five
or six epochs of photos in each way, for ants and bees, 244 and 153 photos, on a CPU:

    fine_tune           error_rate 0.124183  lowest 0.117647 in phase 1
    gradual_unfreeze    error_rate 0.156863  lowest 0.117647 in phase 4
    phases of one's own error_rate 0.117647  lowest 0.117647 in phase 3

Two or three hundredths are chance. `--plot rates.png` shows losses and rates.
"""

import argparse
import dataclasses
from pathlib import Path

from jaxtune import (
    ImageDataLoaders,
    error_rate,
    gradual_phases,
    one_cycle,
    resnet18,
    vision_learner,
)

#: Layer groups, first to last.
GROUPS = {
    "stem": r"body\.(conv1|bn1)\.",
    "layer1": r"body\.layer1\.",
    "layer2": r"body\.layer2\.",
    "layer3": r"body\.layer3\.",
    "layer4": r"body\.layer4\.",
    "head": r"head\.",
}


def own_phases(num_groups, steps_per_epoch, base_lr=5e-4):
    """ULMFiT's phases, but only the last three, with one-cycle rates, two epochs each.

    The phases are plain data: the boundary is how many of the first groups are frozen.
    """
    phases = gradual_phases(
        num_groups, steps_per_epoch, 2, base_lr, epochs_each=2, schedule=one_cycle
    )
    return [
        dataclasses.replace(phase, name=f"own phase {number}")
        for number, phase in enumerate(phases[:3], start=1)
    ]


def main(argv=None, arch=resnet18, groups=GROUPS):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/ or val/")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="a .png to write")
    args = parser.parse_args(argv)
    data = ImageDataLoaders.from_folder(
        args.photos,
        valid="val" if (args.photos / "val").is_dir() else "valid",
        size=args.size,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    steps = len(data.train_loader)
    ways = {
        "fine_tune": lambda model: model.fine_tune(len(groups) - 1),
        "gradual_unfreeze": lambda model: model.gradual_unfreeze(1),
        "phases of one's own": lambda model: model.fit_phases(
            own_phases(len(groups), steps)
        ),
    }
    histories = {}
    for name, train in ways.items():
        model = vision_learner(data, arch, groups=groups, metrics=error_rate)
        histories[name] = train(model)
        if args.plot and name == "gradual_unfreeze":
            histories[name].plot().savefig(args.plot)
    for name, history in histories.items():
        errors = history.history["error_rate"]
        best = history[errors.index(min(errors))]
        print(
            f"{name:<19} error_rate {errors[-1]:.6f}"
            f"  lowest {min(errors):.6f} in phase {best.phase}"
        )
    return histories


if __name__ == "__main__":
    main()
