"""Converts a file of weights to .safetensors and prints its manifest entry.

    python weights/convert.py resnet50-mine.pth --architecture resnet50 --tag mine

Reads .pth/.pt/.bin/.pkl, .npz and .safetensors without running anything in them.
"""

import argparse
import json
import sys
from pathlib import Path

from jaxtune.pretrained.download import sha256_of
from jaxtune.pretrained.manifest import IMAGENET_MEAN, IMAGENET_STD
from jaxtune.pretrained.weights_file import read_weights, write_weights


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="file of weights")
    parser.add_argument("--architecture", required=True, help="such as resnet50")
    parser.add_argument(
        "--tag", required=True, help="name among the architecture's weights"
    )
    parser.add_argument("--licence", default=None, help="an SPDX name")
    parser.add_argument("--input-size", type=int, default=224, help="side in pixels")
    for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        parser.add_argument(f"--{name}", type=float, nargs=3, default=values)
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write to")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Writes the .safetensors file and prints the entry; returns the exit status."""
    asked = arguments(given)
    name = f"{asked.architecture}_{asked.tag}".lower()
    try:
        arrays = read_weights(asked.file)
        target = asked.out / f"{name}.safetensors"
        asked.out.mkdir(parents=True, exist_ok=True)
        write_weights(target, arrays)
    except (OSError, ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 1
    classifier = arrays.get("fc.bias")
    entry = {
        "name": name,
        "architecture": asked.architecture,
        "default": False,
        "file": target.name,
        "sha256": sha256_of(target),
        "licence": asked.licence,
        "input_size": asked.input_size,
        "num_classes": 1000 if classifier is None else len(classifier),
        "mean": list(asked.mean),
        "std": list(asked.std),
        "published_top1": None,
        "measured_top1": None,
        "aliases": [],
        "hub": None,
        "wheel": None,
    }
    print(f"{len(arrays)} arrays written to {target}", file=sys.stderr)
    print(json.dumps(entry, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
