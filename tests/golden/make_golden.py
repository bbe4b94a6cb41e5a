"""Makes the golden files of the networks with PyTorch; run by hand, never by a test.

In: torch, torchvision and timm, and weights drawn by `draw.py`. Out: one .npz for each
network and `networks.json`, beside this file; README.md there lists every key.

The one rule: outputs only. What can be drawn again from a name is not stored.
"""

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from draw import draw_images, draw_labels, draw_state, positions
from torch_side import torchvision

# isort: split
# timm imports torchvision, so it comes after.
import timm

HERE = Path(__file__).parent
BOTH = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
)
TIMM_ONLY = ("resnet18d", "resnet26d", "resnet34d", "resnet50d")
V1 = "resnet50_v1"
NETWORKS = (*BOTH, *TIMM_ONLY, V1)
NAMES_IN_FULL = ("resnet18", "resnet50", "resnet18d", "resnet50d")
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "pooled")

IMAGE_SHAPE = (2, 64, 64, 3)
# Odd at every stage: the average pool of a "d" shortcut rounds up, and strided
# convolutions pad only in front of what they need.
ODD_SHAPE = (1, 75, 90, 3)
STEPS = 10
FIRST_SEED = 100
TRAIN_CLASSES = 10
RATE = 1e-4
"""Learning rate at which float32 and float64 stay together in every network."""
LARGE = 40e6
"""Networks with more parameters than this train on half a batch."""


def build(name: str) -> torch.nn.Module:
    """Returns the network of that name, with nothing loaded."""
    if name in TIMM_ONLY:
        return timm.create_model(name)
    if name != V1:
        return getattr(torchvision.models, name)()
    net = torchvision.models.resnet50()
    for module in net.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    return net


def shapes_of(net: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns {name: shape} of parameters and running statistics, counters left out."""
    return {
        name: tuple(value.shape)
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def load(net: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Returns the network with drawn weights, of that type."""
    state = {k: torch.from_numpy(v) for k, v in draw_state(shapes_of(net)).items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    left = [name for name in missing if not name.endswith("num_batches_tracked")]
    if left or unexpected:
        raise ValueError(f"Names do not fit: {left} missing, {unexpected} unexpected.")
    return net.to(dtype)


def to_torch(images: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Returns NHWC images as an NCHW tensor."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(
        dtype
    )


def stages(net: torch.nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns {stage: NHWC features} and the logits, from one forward pass."""
    kept: dict[str, np.ndarray] = {}
    taps = {
        "stem": net.maxpool,
        **{f"layer{i}": getattr(net, f"layer{i}") for i in range(1, 5)},
        "pooled": net.global_pool if hasattr(net, "global_pool") else net.avgpool,
    }

    def keep(stage: str):
        def hook(_module, _inputs, output):
            values = output.detach()
            kept[stage] = (
                values.permute(0, 2, 3, 1) if values.ndim == 4 else values
            ).numpy()

        return hook

    hooks = [tap.register_forward_hook(keep(stage)) for stage, tap in taps.items()]
    with torch.no_grad():
        kept["logits"] = net(images).numpy()
    for hook in hooks:
        hook.remove()
    kept["pooled"] = kept["pooled"].reshape(len(images), -1)
    return kept


def relative(left: np.ndarray, right: np.ndarray) -> float:
    """Returns the largest difference over the root mean square of the second."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float(np.abs(left - right).max() / np.sqrt((right**2).mean()))


def forward(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Returns the arrays and the notes of the network in evaluation mode."""
    images, odd = draw_images(0, IMAGE_SHAPE), draw_images(1, ODD_SHAPE)
    runs = {}
    for dtype in (torch.float32, torch.float64):
        net = load(build(name), dtype).eval()
        runs[dtype] = stages(net, to_torch(images, dtype))
        runs[dtype]["odd"] = stages(net, to_torch(odd, dtype))["logits"]
    single, double = runs[torch.float32], runs[torch.float64]
    notes = {"float64_difference": {k: relative(single[k], double[k]) for k in single}}
    if name in BOTH:
        other = load(timm.create_model(name), torch.float32).eval()
        if shapes_of(other) != shapes_of(net):
            raise ValueError(f"{name}: timm and torchvision differ in names or shapes.")
        theirs = stages(other, to_torch(images, torch.float32))
        theirs["odd"] = stages(other, to_torch(odd, torch.float32))["logits"]
        notes["timm_difference"] = max(relative(theirs[k], single[k]) for k in single)
    arrays = {"logits": single["logits"]}
    flat = single["odd"].reshape(-1)
    arrays["odd_logits"] = flat[positions(flat.size)]
    for stage in STAGES:
        values = single[stage]
        arrays[f"{stage}.shape"] = np.array(values.shape, np.int32)
        arrays[f"{stage}.summary"] = summary(values)
        arrays[f"{stage}.values"] = values.reshape(-1)[positions(values.size)]
    return arrays, notes


def summary(values: np.ndarray) -> np.ndarray:
    """Returns the mean and the Euclidean norm, added up in float64, as float32."""
    values = values.astype(np.float64)
    return np.array([values.mean(), np.sqrt((values**2).sum())], np.float32)


def batch_norms(net: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Returns {name: batch norm} in the order of the state dictionary."""
    kind = torch.nn.BatchNorm2d
    return {name: m for name, m in net.named_modules() if isinstance(m, kind)}


def train(name: str, dtype: torch.dtype, *, batch: int, rate: float) -> dict:
    """Returns losses and full running statistics after ten steps of plain SGD."""
    net = load(build(name), dtype).train()
    losses = []
    for step in range(STEPS):
        images = draw_images(FIRST_SEED + step, (batch, *IMAGE_SHAPE[1:]))
        labels = draw_labels(FIRST_SEED + step, batch, num_classes=TRAIN_CLASSES)
        loss = F.cross_entropy(
            net(to_torch(images, dtype)), torch.from_numpy(labels).long()
        )
        net.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for value in net.parameters():
                value -= rate * value.grad
    norms = batch_norms(net)
    return {
        "losses": np.array(losses),
        "names": list(norms),
        "mean": [m.running_mean.numpy() for m in norms.values()],
        "var": [m.running_var.numpy() for m in norms.values()],
    }


def differences(run: dict, other: dict) -> dict[str, float]:
    """Returns how far two training runs are apart, the worst of all layers."""
    return {
        "losses": float(np.abs(run["losses"] / other["losses"] - 1).max()),
        **{k: max(map(relative, run[k], other[k])) for k in ("mean", "var")},
    }


def rows(values: Iterable[np.ndarray]) -> np.ndarray:
    """Returns one row for each array: mean, norm, first four values."""
    return np.stack([np.concatenate([summary(v), v[:4]]) for v in values])


def training(name: str) -> tuple[dict, dict]:
    """Returns the arrays and the notes of ten training steps."""
    count = sum(p.numel() for p in build(name).parameters())
    settings = {"batch": 4 if count > LARGE else 8, "rate": RATE}
    single = train(name, torch.float32, **settings)
    double = train(name, torch.float64, **settings)
    still = train(name, torch.float32, **{**settings, "rate": 0.0})
    arrays = {
        "losses": single["losses"].astype(np.float32),
        "norm_names": np.array(single["names"]),
        "norm_mean": rows(single["mean"]).astype(np.float32),
        "norm_var": rows(single["var"]).astype(np.float32),
    }
    notes = {
        **settings,
        "size": IMAGE_SHAPE[1],
        "steps": STEPS,
        "num_label_classes": TRAIN_CLASSES,
        "first_seed": FIRST_SEED,
        "float64_difference": differences(single, double),
        "moved_by_training": differences(single, still),
    }
    return arrays, notes


def names_of(name: str) -> dict:
    """Returns how many parameters the network has, and its names and shapes."""
    net = build(name)
    shapes = shapes_of(net)
    lines = sorted(f"{k} {' '.join(map(str, v))}" for k, v in shapes.items())
    notes = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "arrays": len(shapes),
        "names_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }
    if name in NAMES_IN_FULL:
        notes["names"] = {k: list(v) for k, v in shapes.items()}
    return notes


def round_floats(tree):
    """Returns the tree with floats of three digits, as notes need no more."""
    if isinstance(tree, dict):
        return {k: round_floats(v) for k, v in tree.items()}
    return float(f"{tree:.3g}") if isinstance(tree, float) else tree


def write_json(path: Path, tree: dict) -> None:
    """Writes the tree, one entry of the second level a line."""
    path.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")


def versions() -> dict[str, str]:
    """Returns the versions that made the files."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }


def make_network(name: str) -> None:
    """Writes one network's .npz, and its entry in networks.json."""
    arrays, forward_notes = forward(name)
    train_arrays, train_notes = training(name)
    np.savez_compressed(HERE / f"{name}.npz", **arrays, **train_arrays)
    path = HERE / "networks.json"
    tree = json.loads(path.read_text()) if path.exists() else {}
    tree[name] = {
        **names_of(name),
        "versions": versions(),
        "forward": round_floats(forward_notes),
        "train": round_floats(train_notes),
    }
    write_json(path, tree)
    print(name, json.dumps(tree[name]["forward"]), json.dumps(tree[name]["train"]))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for name in options.networks:
        make_network(name)


if __name__ == "__main__":
    main()
