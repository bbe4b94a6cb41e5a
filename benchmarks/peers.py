"""The peers in PyTorch: torchvision's networks with fastai's head.

An architecture's name in; the network, split as fastai splits it, out. The one rule of
the file: it is the only one that imports torch, and only the benchmarks import it.
"""

import importlib
import re
import sys

import torch
from torch import nn


def _import_torchvision():
    """Returns torchvision, also where its operators don't load beside this torch.

    They don't where one of the two is built for the CPU only. Importing it then asks
    for the schemas of operators that no ResNet calls, and is given those. Not before it
    has tried: where the operators do load, to define one twice ends the process.
    """
    while True:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            name = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if name is None or name[1] in _defined:
                raise
        for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(
            f"{name[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
        _defined[name[1]] = library


#: By name; the schemas are gone when these are.
_defined: dict[str, torch.library.Library] = {}
torchvision = _import_torchvision()

_NORMS = nn.BatchNorm1d | nn.BatchNorm2d


class ConcatPool(nn.Module):
    """Maximum and mean over height and width, flat; fastai's `AdaptiveConcatPool2d`."""

    def forward(self, x):
        """Returns (b, 2c) for (b, c, h, w): c maxima, then c means."""
        pools = nn.functional.adaptive_max_pool2d, nn.functional.adaptive_avg_pool2d
        return torch.cat([pool(x, 1) for pool in pools], 1).flatten(1)


def head(features: int, num_classes: int) -> nn.Sequential:
    """Returns the head that fastai's `create_head` makes by default.

    References:
        fastai 2.8.12, vision/learner.py `create_head`, layers.py `LinBnDrop`.
    """
    layers = [
        ConcatPool(),
        nn.BatchNorm1d(2 * features),
        nn.Dropout(0.25),
        nn.Linear(2 * features, 512, bias=False),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(512),
        nn.Dropout(0.5),
        nn.Linear(512, num_classes, bias=False),
    ]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.constant_(layer.bias, 1e-3)
    return nn.Sequential(*layers)


def network(arch: str, num_classes: int) -> nn.Sequential:
    """Returns body and head, channels last, with random weights."""
    whole = getattr(torchvision.models, arch)(weights=None)
    features = whole.fc.in_features
    body = nn.Sequential(*list(whole.children())[:-2])
    net = nn.Sequential(body, head(features, num_classes))
    return net.to(memory_format=torch.channels_last)


def freeze(net: nn.Sequential, *, norms_train: bool) -> None:
    """Freezes the body; with `norms_train` as fastai does, its batch norms learn."""
    net.train()
    net[0].train(norms_train)
    for module in net[0].modules():
        learns = norms_train and isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(learns)


def train_step(
    net: nn.Sequential,
    images,
    labels,
    *,
    forward=None,
    autocast: torch.dtype | None = None,
    device: str = "cpu",
):
    """Returns a function that does one step with Adam, and waits for it if told to.

    Args:
        net: The network whose parameters learn, if they require gradients.
        images: Channels last.
        labels: Classes.
        forward: The compiled network; the network itself if None.
        autocast: What the forward pass computes in, where PyTorch says it may.
        device: Where it all lies.
    """
    forward = forward or net
    groups = [
        [p for p in part.parameters() if p.requires_grad]
        for part in (net[0][:6], net[0][6:], net[1])
    ]
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in groups if group],
        lr=1e-4,
        betas=(0.9, 0.99),
        eps=1e-5,
    )
    loss_of = nn.CrossEntropyLoss()

    def step(wait: bool = True):
        with torch.autocast(device, autocast, enabled=autocast is not None):
            loss = loss_of(forward(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach()) if wait else loss

    return step


def predict_step(net: nn.Sequential, images):
    """Returns a function of no argument that predicts, in eval mode."""
    net.eval()

    def step():
        with torch.inference_mode():
            return net(images).softmax(1).numpy()

    return step


def batch(images, labels):
    """Returns a batch of numpy arrays (b, h, w, c) as channels-last tensors."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return tensor.to(memory_format=torch.channels_last), torch.from_numpy(labels).long()
