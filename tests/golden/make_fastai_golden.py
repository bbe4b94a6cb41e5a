"""Makes the golden files of fastai's schedules, Adam and head; run by hand.

In: fastai 2.8.12 on torch. Out: `fastai_schedules.json` and `fastai_head.npz`, beside
this file; README.md there lists every key. Before writing, everything is compared with
`fastai_formulae.py`, and a difference stops the script.

The one rule: fastai itself runs; no formula is written down here.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from draw import draw, draw_images, draw_labels, spread
from torch_side import torchvision

# isort: split
# fastai imports torchvision, so it comes after.
import fastai
import fastai.callback.schedule  # Adds fit_one_cycle and its kin to Learner.
import fastai_formulae as formulae
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from fastai.torch_core import params
from fastai.vision.learner import create_head, create_vision_model

HERE = Path(__file__).parent
RUNS = {1: (1, 1), 2: (2, 1), 3: (3, 1), 7: (7, 1), 47: (47, 1), 100: (25, 4)}
"""{steps: (batches an epoch, epochs)}"""
HEAD_SHAPE = (8, 3, 4, 512)
HEAD_CLASSES = 37
HEAD_RATE = 0.05
HEAD_STEPS = 3


class Note(Callback):
    """Notes the rates of all groups and the momentum that a batch is trained with."""

    order = 70  # After ParamScheduler, which is 60.
    run_valid = False

    def __init__(self):
        self.rows = []

    def before_fit(self):
        """Starts a new phase."""
        self.rows.append([])

    def before_batch(self):
        """Notes what the optimizer holds."""
        hypers = self.opt.hypers
        moms = {h["mom"] for h in hypers}
        if len(moms) != 1:
            raise ValueError(f"Momentum differs between groups: {moms}.")
        self.rows[-1].append([h["lr"] for h in hypers] + [hypers[0]["mom"]])


def learner(batches: int) -> tuple[Learner, Note]:
    """Returns a learner with three groups, and so many batches an epoch."""
    images = torch.from_numpy(spread("toy", (batches, 4), low=-1.0, high=1.0))
    items = [(image, index % 2) for index, image in enumerate(images)]
    loaders = DataLoaders(
        DataLoader(items, bs=1, num_workers=0), DataLoader(items[:1], bs=1)
    )
    net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    note = Note()
    learn = Learner(
        loaders,
        net,
        loss_func=CrossEntropyLossFlat(),
        splitter=lambda m: [params(part) for part in m],
        cbs=note,
    )
    return learn, note


def shorten(rows) -> list[list[float]]:
    """Returns the numbers with ten digits."""
    return [[float(f"{value:.10g}") for value in row] for row in rows]


def check(what: str, theirs, ours, *, tolerance: float) -> None:
    """Raises where two tables differ by more than a share of the columns' maximum."""
    theirs, ours = np.array(theirs, np.float64), np.array(ours, np.float64)
    worst = (abs(theirs - ours).max(0) / abs(theirs).max(0)).max()
    print(f"{what}: {worst:.1e} of the maximum")
    if worst > tolerance:
        raise ValueError(f"{what}: fastai and the formulae are {worst} apart.")


def schedules() -> dict:
    """Returns the rates and momentum of real fastai runs, batch by batch."""
    tree: dict = {"fine_tune": {}, "fit_one_cycle": {}, "fit_flat_cos": {}}
    for total, (batches, epochs) in RUNS.items():
        learn, note = learner(batches)
        with learn.no_bar(), learn.no_logging():
            learn.fine_tune(epochs, freeze_epochs=epochs)
            learn.fit_one_cycle(epochs, 1e-2)
            learn.fit_flat_cos(epochs, 1e-2)
        frozen, unfrozen, cycle, flat = (shorten(rows) for rows in note.rows)
        settings = formulae.fine_tune_phases()
        for name, rows, phase in zip(
            ("frozen", "unfrozen"), (frozen, unfrozen), settings, strict=True
        ):
            ours = [[*r, m] for r, m in formulae.phase_steps(phase, total)]
            check(f"fine_tune {name} {total}", rows, ours, tolerance=1e-6)
        one = [formulae.one_cycle(i, total, peak=1e-2) for i in range(total)]
        cycle = [[row[0], row[-1]] for row in cycle]
        check(f"fit_one_cycle {total}", cycle, one, tolerance=1e-6)
        flat = [row[:1] for row in flat]
        ours = [[formulae.flat_cos(i, total, peak=1e-2)] for i in range(total)]
        check(f"fit_flat_cos {total}", flat, ours, tolerance=1e-6)
        tree["fine_tune"][total] = {"frozen": frozen, "unfrozen": unfrozen}
        tree["fit_one_cycle"][total] = cycle
        tree["fit_flat_cos"][total] = [row[0] for row in flat]
    return tree


def group_rates() -> list[dict]:
    """Returns what fastai's set_hyper makes of scalars, lists and slices."""
    asked = [
        ("2e-3", 2e-3),
        ("[1e-4, 1e-3, 1e-2]", [1e-4, 1e-3, 1e-2]),
        ("slice(1e-5, 1e-3)", slice(1e-5, 1e-3)),
        ("slice(2e-3)", slice(2e-3)),
        ("slice(0, 2e-3)", slice(0, 2e-3)),
    ]
    rows = []
    for count in (1, 2, 3, 5):
        for text, rates in asked:
            if isinstance(rates, list) and count != 3:
                continue
            groups = [[torch.nn.Parameter(torch.zeros(1))] for _ in range(count)]
            optimizer = Adam(groups, lr=0.0)
            optimizer.set_hyper("lr", rates)
            theirs = [float(h["lr"]) for h in optimizer.hypers]
            np.testing.assert_allclose(
                theirs, formulae.group_rates(rates, count), rtol=1e-12
            )
            rows.append({"asked": text, "groups": count, "rates": theirs})
    return rows


def adam() -> dict:
    """Returns eight steps of fastai's Adam in float64, the momentum cycling."""
    steps = [formulae.one_cycle(i, 8, peak=0.1) for i in range(8)]
    tree: dict = {"steps": [list(step) for step in steps]}
    start = spread("adam value", (3, 4), low=-1.0, high=1.0).astype(np.float64)
    slopes = spread("adam slope", (8, 3, 4), low=-1.0, high=1.0).astype(np.float64)
    for name, decay in (("decayed", 0.01), ("not_decayed", 0.0)):
        value = torch.nn.Parameter(torch.from_numpy(start.copy()))
        optimizer = Adam([value], lr=0.0, wd=0.01)
        # As a Learner does it for batch norms and biases.
        optimizer.state[value] = {} if decay else {"do_wd": False}
        history = []
        for index, (rate, momentum) in enumerate(steps):
            optimizer.set_hyper("lr", rate)
            optimizer.set_hyper("mom", momentum)
            value.grad = torch.from_numpy(slopes[index].copy()) * (1 + value.detach())
            optimizer.step()
            history.append(value.detach().numpy().copy())
        ours = formulae.adam(
            start,
            lambda step, now: slopes[step] * (1 + now),
            steps,
            weight_decay=decay,
        )
        np.testing.assert_allclose(history, ours, rtol=1e-12)
        print(f"Adam {name}: {abs(np.array(history) - np.array(ours)).max():.1e}")
        tree[name] = [row.reshape(-1).tolist() for row in history]
    return tree


def head_layers(head: torch.nn.Module) -> list[str]:
    """Returns each layer in words: its class, its numbers."""
    words = []
    for layer in head:
        kind = type(layer).__name__
        if isinstance(layer, torch.nn.Dropout):
            words.append(f"{kind} {layer.p}")
        elif isinstance(layer, torch.nn.Linear):
            bias = layer.bias is not None
            words.append(f"{kind} {layer.in_features} {layer.out_features} bias={bias}")
        elif isinstance(layer, torch.nn.BatchNorm1d):
            words.append(f"{kind} {layer.num_features} momentum={layer.momentum}")
        else:
            words.append(kind)
    return words


def head_variants() -> dict:
    """Returns the layers and the parameter count of heads, by their arguments."""
    asked = {
        "512, 37": {},
        "512, 37, lin_ftrs=[256, 128]": {"lin_ftrs": [256, 128]},
        "512, 37, lin_ftrs=[]": {"lin_ftrs": []},
        "512, 37, ps=0.2": {"ps": 0.2},
        "512, 37, ps=[0.1, 0.3]": {"ps": [0.1, 0.3]},
        "512, 37, concat_pool=False": {"concat_pool": False},
        "512, 37, bn_final=True": {"bn_final": True},
        "512, 37, first_bn=False": {"first_bn": False},
        "512, 37, lin_first=True": {"lin_first": True},
    }
    tree = {}
    for text, options in asked.items():
        head = create_head(512, HEAD_CLASSES, **options)
        tree[text] = {
            "layers": head_layers(head),
            "parameters": sum(p.numel() for p in head.parameters()),
        }
    return tree


def head_numbers() -> tuple[dict, dict]:
    """Returns the arrays of the head with drawn weights, and its names and shapes."""
    head = create_head(512, HEAD_CLASSES)
    state, shapes = {}, {}
    for name, value in head.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            shapes[f"1.{name}"] = list(value.shape)
            state[name] = torch.from_numpy(draw(f"1.{name}", tuple(value.shape)))
    head.load_state_dict(state, strict=False)
    for layer in head:
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0

    def features(seed: int) -> torch.Tensor:
        values = draw_images(seed, HEAD_SHAPE).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(values))

    def evaluate() -> np.ndarray:
        head.eval()
        with torch.no_grad():
            return head(features(200)).numpy()

    arrays = {"logits": evaluate()}
    head.train()
    losses = []
    for step in range(HEAD_STEPS):
        labels = draw_labels(201 + step, HEAD_SHAPE[0], num_classes=HEAD_CLASSES)
        outputs = head(features(201 + step))
        loss = F.cross_entropy(outputs, torch.from_numpy(labels).long())
        head.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for value in head.parameters():
                value -= HEAD_RATE * value.grad
    arrays["losses"] = np.array(losses, np.float32)
    arrays["trained_logits"] = evaluate()
    for name, value in head.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            arrays[f"1.{name}"] = value.numpy()
    notes = {"rate": HEAD_RATE, "shape": list(HEAD_SHAPE), "names": shapes}
    return arrays, notes


def whole_model() -> dict:
    """Returns the parameter counts of resnet34 with a head for 37 classes."""
    model = create_vision_model(
        torchvision.models.resnet34, HEAD_CLASSES, pretrained=False
    )

    def count(parameters) -> int:
        return sum(p.numel() for p in parameters)

    learn = fastai.vision.learner
    groups = learn.model_meta[torchvision.models.resnet34]["split"](model)
    norms = [
        p
        for module in model[0].modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for p in module.parameters()
    ]
    return {
        "total": count(model.parameters()),
        "body": count(model[0].parameters()),
        "head": count(model[1].parameters()),
        "body_norms": count(norms),
        "groups": [count(group) for group in groups],
    }


def main() -> None:
    """Writes both files."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    arrays, notes = head_numbers()
    tree = {
        "fastai": fastai.__version__,
        "torch": torch.__version__,
        **schedules(),
        "group_rates": group_rates(),
        "adam": adam(),
        "head": {**notes, "variants": head_variants()},
        "resnet34_37_classes": whole_model(),
    }
    print(tree["resnet34_37_classes"], notes, arrays["losses"])
    path = HERE / "fastai_schedules.json"
    path.write_text(json.dumps(tree, separators=(",", ":")) + "\n")
    np.savez_compressed(HERE / "fastai_head.npz", **arrays)


if __name__ == "__main__":
    main()
