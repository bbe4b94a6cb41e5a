"""Imports torchvision beside a torch that its wheel was not built for.

In: nothing. Out: `torchvision`, imported. The one rule: the scripts that make golden
files import torchvision, timm and fastai after this file.
"""

import torch

# torchvision's wheel brings compiled operators that do not load beside a torch built
# for the CPU only. Importing it registers fakes for two of them, which fails unless
# their schemas exist. No ResNet calls them.
_operators = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    try:
        _operators.define(
            f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    except RuntimeError:  # Already there: a torchvision that belongs to this torch.
        pass

import torchvision  # noqa: E402, F401
