"""The peers in PyTorch: torchvision's networks with fastai's head.

An architecture's name in; the network, split as fastai splits it, out. The one rule of
the file: it is the only one that imports torch, and only the benchmarks import it.
"""

import torch
from torch import nn

# torchvision's wheel may bring compiled operators that do not load beside a torch built
# for the CPU only; importing it needs their schemas, which no ResNet calls.
_operators = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    try:
        _operators.define(
            f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    except RuntimeError:  # Already there: a torchvision that belongs to this torch.
        pass

import torchvision  # noqa: E402
from fastai.vision.learner import create_head  # noqa: E402

_NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def network(arch: str, num_classes: int) -> nn.Sequential:
    """Returns body and head, channels last, with random weights."""
    whole = getattr(torchvision.models, arch)(weights=None)
    features = whole.fc.in_features
    body = nn.Sequential(*list(whole.children())[:-2])
    net = nn.Sequential(body, create_head(features, num_classes))
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
