"""Our networks with the drawn weights, for the tests that compare with PyTorch.

In: a network's published name. Out: the NNX module and its golden arrays.
"""

import json
from pathlib import Path

import numpy as np
from draw import draw_state
from flax import nnx

from jaxtune.pretrained import ARCHITECTURES, load_into, to_torch_layout

HERE = Path(__file__).parent
NOTES = json.loads((HERE / "networks.json").read_text())


def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays that PyTorch gave for a network."""
    with np.load(HERE / f"{name}.npz") as file:
        return dict(file)


def build(name: str) -> nnx.Module:
    """Returns the network of that name with the drawn weights."""
    options = {"stride_in_1x1": True} if name.endswith("_v1") else {}
    arch = ARCHITECTURES[name.removesuffix("_v1")]
    net = nnx.eval_shape(lambda: arch(**options))
    load_into(net, draw_state(torch_shapes(net)))
    return net


def torch_shapes(net: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns {published name: shape in torch's layout} of all variables."""
    return {
        name: to_torch_layout(name, np.empty(leaf.shape, bool)).shape
        for path, leaf in nnx.to_flat_state(nnx.state(net))
        if (name := ".".join(map(str, path)))
    }
