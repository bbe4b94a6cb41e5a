"""Makes the small torch files beside it (needs PyTorch, which no test does).

    python make_files.py

The values are those of `expected` in ../test_torch_file.py.
"""

import pickle
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent


def state_dict() -> OrderedDict:
    """Returns tensors of every kind that published files hold."""
    base = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        {
            "conv.weight": base.reshape(2, 3, 2, 2).clone(),
            "view.weight": base[4:16].reshape(3, 4),
            "turned.weight": base.reshape(4, 6).t(),
            "stepped.bias": base[1::5],
            "half.bias": torch.tensor([0.5, -2.0], dtype=torch.float16),
            "bfloat.bias": torch.tensor([1.5, 3.0], dtype=torch.bfloat16),
            "double.bias": torch.tensor([0.1], dtype=torch.float64),
            "flags": torch.tensor([True, False, True]),
            "bytes": torch.tensor([0, 255], dtype=torch.uint8),
            "empty": torch.zeros(0, 3),
            "bn.num_batches_tracked": torch.tensor(7),
            "learned.weight": torch.nn.Parameter(torch.tensor([[2.0]])),
        }
    )
    state._metadata = OrderedDict({"": {"version": 1}})
    return state


def main() -> None:
    """Writes all files."""
    state = state_dict()
    torch.save(state, HERE / "zip.pth")
    torch.save(state, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    (HERE / "plain.pkl").write_bytes(pickle.dumps(state, protocol=4))
    few = {"module.fc.bias": torch.tensor([1.0, 2.0])}
    checkpoint = {
        "epoch": 3,
        "best": 0.5,
        "classes": {"cat", "dog"},
        "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}},
        "state_dict": few,
    }
    torch.save(checkpoint, HERE / "checkpoint.pth")
    torch.save({"model": checkpoint}, HERE / "twice.pth")
    torch.save({"small": torch.tensor([1, 2], dtype=torch.uint16)}, HERE / "uint16.pth")
    torch.save(torch.nn.Linear(2, 1), HERE / "module.pth")


if __name__ == "__main__":
    main()
