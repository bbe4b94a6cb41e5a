"""Makes the golden file of the real ResNet-18 with PyTorch; run by hand.

In: torch and torchvision, the published weights in JAXTUNE_WEIGHTS_DIR, the ImageNet
photos in JAXTUNE_DATA_DIR. Out: `resnet18_imagenet1k_v1.npz` and the accuracy, printed.

The one rule: outputs only; neither weights nor photos are stored.
"""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch_side import torchvision

HERE = Path(__file__).parent
NAME = "resnet18_imagenet1k_v1"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(path: Path) -> np.ndarray:
    """Returns one photo squashed to 224 pixels and normalised, float32 HWC."""
    image = Image.open(path).convert("RGB")
    squashed = image.resize((224, 224), Image.Resampling.BILINEAR)
    pixels = np.asarray(squashed, np.float32) / np.float32(255)
    return (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)


def logits(net: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Returns the logits of float NHWC images, in the network's type."""
    dtype = net.fc.weight.dtype
    batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        return net(batch.to(dtype)).numpy()


def main() -> None:
    """Writes the file."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    net = torchvision.models.resnet18()
    weights = Path(os.environ["JAXTUNE_WEIGHTS_DIR"])
    net.load_state_dict(load_file(weights / f"{NAME}.safetensors"))
    net.eval()

    noise = np.random.RandomState(0).randn(4, 224, 224, 3).astype(np.float32)
    noise_logits = logits(net, noise)

    photos = Path(os.environ["JAXTUNE_DATA_DIR"]) / "imagenet_samples"
    paths = sorted(p for p in photos.iterdir() if p.name[:3].isdigit())
    labels = np.array([int(p.name[:3]) for p in paths], np.int32)
    outputs = np.concatenate([logits(net, photo(p)[None]) for p in paths])
    ranked = np.sort(outputs, axis=1)
    top = outputs.argmax(axis=1).astype(np.int32)
    np.savez_compressed(
        HERE / f"{NAME}.npz",
        noise_logits=noise_logits,
        photo_labels=labels,
        photo_top1=top,
        photo_margin=ranked[:, -1] - ranked[:, -2],
        photo_logit=ranked[:, -1],
    )
    net.double()
    print("noise, float64 difference", abs(logits(net, noise) - noise_logits).max())
    print("photos", len(paths), "top-1", float((top == labels).mean()))
    print("smallest margins", np.sort(ranked[:, -1] - ranked[:, -2])[:5])


if __name__ == "__main__":
    main()
