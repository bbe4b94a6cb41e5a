"""How transferable are features in deep neural networks? The experiment, by stages.

    python examples/how_transferable.py photos/flowers5 --size 80 --out curve.png

Yosinski et al. (https://arxiv.org/abs/1411.1792) take the first n layers of a trained
network, put untrained layers on them, and train that on another task: with the first n
frozen (their AnB), or all fine-tuned (AnB+). Here A is ImageNet, B is five flowers, and
n counts the stages of a ResNet-18: conv1, layer1 to layer4. At n = 0, the control,
nothing is kept; at n = 5 only the head is new. Two epochs each. Accuracy, on one core
of a CPU (with two, single figures move by up to four hundredths):

    n  up to   frozen    fine-tuned
    0  nothing 0.530000  0.530000
    1  conv1   0.600000  0.550000
    2  layer1  0.625000  0.632500
    3  layer2  0.717500  0.737500
    4  layer3  0.795000  0.750000
    5  layer4  0.772500  0.785000

In the paper, where B has half a million photos, frozen layers lose more the more there
are; 1250 photos gain by nearly every one.
"""

import argparse
from pathlib import Path

from flax import nnx

from jaxtune import ImageDataLoaders, accuracy, create_body, resnet18, vision_learner
from jaxtune.plots import Line, Panel, line_plot

#: What is kept first, second, …: children of a ResNet's body.
STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))


def transplant(arch, kept, seed):
    """Returns a body: pretrained children where they are kept, untrained elsewhere."""
    trained = create_body(arch(pretrained=True))
    body = create_body(arch(pretrained=False, rngs=nnx.Rngs(seed)))
    for name in kept:
        body[name] = trained[name]
    return body


def layer_groups(kept):
    """Two groups: what was kept, and everything else; one if nothing was kept."""
    if not kept:
        return {"new": "(body|head)"}
    pattern = rf"body\.({'|'.join(kept)})\."
    return {"kept": pattern, "new": rf"(?!{pattern})"}


def main(argv=None, arch=resnet18):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="holds train/ and valid/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a .png for the curve")
    args = parser.parse_args(argv)
    data = ImageDataLoaders.from_folder(
        args.photos, size=args.size, batch_size=args.batch_size, seed=args.seed
    )

    def train(kept, frozen):
        model = vision_learner(
            data,
            body=transplant(arch, kept, args.seed),
            groups=layer_groups(kept),
            pretrained=False,
            metrics=accuracy,
        )
        model.freeze_to("new" if frozen else 0)
        model.fit_one_cycle(args.epochs, 1e-3)
        return model.validate()["accuracy"]

    control = train((), frozen=False)
    found = {"frozen": [control], "fine-tuned": [control]}
    for depth in range(1, len(STAGES) + 1):
        kept = [name for stage in STAGES[:depth] for name in stage]
        for way, accuracies in found.items():
            accuracies.append(train(kept, frozen=way == "frozen"))

    print(f"n  up to   {'  '.join(found)}")
    names = ["nothing", *(stage[0] for stage in STAGES)]
    for depth, row in enumerate(zip(*found.values(), strict=True)):
        print(f"{depth}  {names[depth]:<7} {'  '.join(f'{one:.6f}' for one in row)}")
    if args.out:
        plot(found).savefig(args.out)
    return found


def plot(found):
    """Returns a figure of the accuracies over the depth of the cut."""
    depths = range(len(STAGES) + 1)
    lines = [
        Line(depths, accuracies, way, color, "dotted")
        for color, (way, accuracies) in enumerate(found.items())
    ]
    control = [found["frozen"][0]] * len(depths)
    lines.append(Line(depths, control, "from scratch", 6, "dashed"))
    return line_plot(
        Panel(lines, "", "stages kept (n)", "validation accuracy", whole_x=True)
    )


if __name__ == "__main__":
    main()
