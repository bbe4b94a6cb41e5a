"""From JPEG files to batches on the device: images per second, cache, a million items.

    python -m benchmarks.input flowers5 hymenoptera --size 128

For each folder of JAXTUNE_DATA_DIR, with the photos resized to what training asks for:

- decode: every photo is read, decoded and resized by as many workers as cores. The
  peer is PyTorch's `DataLoader` with as many, Pillow, and the same size and filter;
- threads, processes: the same with each kind of worker, of which the loader chooses
  one. `own_ms` is what a photo takes of the training process's own time; with
  processes, a thousand divided by it is the most photos a second that more cores bring;
- cached: the second and later epochs, from decoded photos in memory, against the same
  `DataLoader`, which decodes again. `cache_mb` is what they take.

The two take turns; a ratio is jaxtune's images/s / PyTorch's, more is better. Then a
million items, made from a list in a process of its own: seconds until the first batch,
and the largest resident memory. One line of JSON for each case, then tables. Needs
benchmarks/requirements.txt; about 3 minutes on two cores.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.measure import in_turn, machine, ratio, say, table

_MILLION = """
import json, sys, time
from pathlib import Path
from benchmarks.measure import peak_memory
began = time.perf_counter()
import jaxtune
imported = time.perf_counter() - began
photos = sorted(Path(sys.argv[1]).rglob("*.jpg"))
count = int(sys.argv[2])
paths = [photos[i % len(photos)] for i in range(count)]
names = [path.parent.name for path in paths]
listed = peak_memory()
began = time.perf_counter()
data = jaxtune.ImageDataLoaders.from_lists(paths, names, size=128, batch_size=32)
made = time.perf_counter() - began
next(iter(data.train_loader.batches()))
print(json.dumps({
    "items": count,
    "imports_s": round(imported, 2),
    "made_s": round(made, 2),
    "first_batch_s": round(time.perf_counter() - began, 2),
    "list_mb": round(listed),
    "peak_mb": round(peak_memory()),
}))
"""


def ours(root: Path, size: int, batch: int, *, cached: bool = False, kind: str = ""):
    """Returns a function that goes through an epoch, and the data.

    Args:
        root: The folder of photos.
        size: Of the network's images.
        batch: Rows of a batch.
        cached: Whether decoded photos are kept.
        kind: "threads" or "processes"; the loader chooses if empty.
    """
    from jaxtune import ImageDataLoaders
    from jaxtune.data import decoding

    data = ImageDataLoaders.from_folder(
        root,
        valid="val" if (root / "val").is_dir() else "valid",
        size=size,
        batch_size=batch,
        **({} if cached else {"cache_bytes": 0}),
    )

    fewest = {"threads": math.inf, "processes": 0}.get(kind, decoding._FEWEST)
    own = []

    def epoch():
        chosen, decoding._FEWEST = decoding._FEWEST, fewest
        began = time.process_time()
        try:
            for rows in data.train_loader.batches():
                images = jax.device_put(rows["image"])
            images.block_until_ready()
        finally:
            decoding._FEWEST = chosen
        own.append(1000 * (time.process_time() - began) / data.train_loader.num_items)
        return images

    epoch.own = own
    return epoch, data


def theirs(data, batch_size: int):
    """Returns a function that goes through an epoch of PyTorch's DataLoader."""
    import torch
    from PIL import Image

    loader = data.train_loader
    height, width = loader.preparation.squash

    class Photos(torch.utils.data.Dataset):
        def __len__(self):
            return loader.num_items

        def __getitem__(self, index):
            with Image.open(loader.items.paths[index]) as image:
                image = image.convert("RGB")
            image = image.resize((width, height), loader.preparation.resample)
            pixels = torch.from_numpy(np.array(image))
            return pixels.permute(2, 0, 1), int(loader.items.labels[index])

    batches = torch.utils.data.DataLoader(
        Photos(),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
    )

    def epoch():
        for batch in batches:
            images = batch[0]
        return images

    return epoch


def measure(root: Path, size: int, batch: int, rounds: int) -> list[dict]:
    """Returns the figures of one folder: decoding, and from the cache."""
    decode, data = ours(root, size, batch)
    cached, kept = ours(root, size, batch, cached=True)
    calls = {"decode": decode, "cached": cached}
    calls |= {
        kind: ours(root, size, batch, kind=kind)[0] for kind in ("threads", "processes")
    }
    calls["torch"] = theirs(data, batch)
    times = in_turn(calls, rounds=rounds)
    images = len(data.train_loader) * batch
    cores = len(os.sched_getaffinity(0))
    speed = {
        name: [images / second for second in seconds] for name, seconds in times.items()
    }
    return [
        {
            "case": name,
            "data": root.name,
            "resized_to": list(data.train_loader.image_shape[:2]),
            "images_per_second_per_core": round(statistics.median(speed[name]) / cores),
            "torch": round(statistics.median(speed["torch"]) / cores),
            **ratio(speed[name], speed["torch"]),
            "own_ms": round(statistics.median(calls[name].own), 2),
            "cache_mb": round(kept.train_loader.cached_bytes / 1e6)
            if name == "cached"
            else 0,
        }
        for name in ("decode", "cached", "threads", "processes")
    ]


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="folders of JAXTUNE_DATA_DIR")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=1_000_000)
    options = parser.parse_args(argv)
    about, rows = machine("torch", "pillow"), []
    roots = [Path(os.environ["JAXTUNE_DATA_DIR"]) / name for name in options.folders]
    for root in roots:
        rows += measure(root, options.size, options.batch, options.rounds)
        for row in rows[-4:]:
            say(row | about)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    done = subprocess.run(
        [sys.executable, "-c", _MILLION, str(roots[0]), str(options.items)],
        capture_output=True,
        text=True,
        check=True,
    )
    many = json.loads(done.stdout.splitlines()[-1])
    say({"case": "items"} | many | about)
    print(table(list(many), [list(many.values())]))
    return [*rows, many]


if __name__ == "__main__":
    main()
