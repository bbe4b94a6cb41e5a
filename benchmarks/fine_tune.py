"""The whole job: from process start to the last printed line, beside fastai.

    python -m benchmarks.fine_tune flowers5 hymenoptera --rounds 3

Each job is a process of its own: `fine_tune(3)` of a pretrained
ResNet-18 on a folder of JAXTUNE_DATA_DIR, 128 px, batches of 32, random resized crop
(min_scale 0.35) and flip, error rate. `--arch`, `--size` and `--batch-size` choose
others, as for a GPU, on which fastai trains with `to_fp16()`. jaxtune and fastai take
turns. `cold` finds no compiled programs, which only the first job of a machine does;
all others find their own, of a job with one epoch that no clock saw. Ratios are
jaxtune's seconds / fastai's, less is better.

`--recipe` names the recipes to run with jaxtune; "fastai's recipe" has its steps, norms
and size of validation photos. One line of JSON for each job, then a table. Needs
benchmarks/requirements.txt; about 12 minutes a round for 1250 photos on two cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import machine, ratio, say, table

#: Options of the data and of the learner, epochs, and options of the call.
RECIPES = {
    "default": ("", "", 3, ""),
    "fast": ("", "", 3, "recipe='fast'"),
    "fastai's recipe": ("", "", 3, "recipe='fastai'"),
}

_OURS = """
import sys
from jaxtune import ImageDataLoaders, error_rate, vision_learner
root, valid, arch = sys.argv[1:4]
seed, size, batch_size = map(int, sys.argv[4:7])
data = ImageDataLoaders.from_folder(
    root, train="train", valid=valid, size=size, batch_size=batch_size, seed=seed,
    {data}
)
model = vision_learner(data, arch, metrics=error_rate, {learner})
model.fine_tune({epochs}, {call})
print("error_rate", model.history[-1].metrics["error_rate"], flush=True)
"""

_FASTAI = """
import os, sys
from benchmarks import peers
import torch, torchvision
from safetensors.torch import load_file
from fastai.vision.all import *
root, valid, arch = sys.argv[1:4]
seed, size, batch_size = map(int, sys.argv[4:7])
set_seed(seed, True)
dls = ImageDataLoaders.from_folder(
    root, train="train", valid=valid, bs=batch_size, seed=seed,
    item_tfms=[RandomResizedCrop(size, min_scale=0.35), FlipItem()],
)
make = getattr(torchvision.models, arch)
learn = vision_learner(dls, make, metrics=error_rate, pretrained=False)
whole = make()
whole.load_state_dict(load_file(sys.argv[7]))
body = torch.nn.Sequential(*list(whole.children())[:-2])
learn.model[0].load_state_dict(body.state_dict())
learn.dls.add_tfms([Normalize.from_stats(*imagenet_stats)], "after_batch")
learn.freeze()
if torch.cuda.is_available():
    learn.to_fp16()
with learn.no_bar():
    learn.fine_tune(3, freeze_epochs=1)
print("error_rate", float(learn.recorder.values[-1][-1]), flush=True)
"""


def ours(recipe: str, epochs: int | None = None) -> str:
    """Returns the program of one of `RECIPES`, with other epochs than its own if given.

    How many there are changes nothing of what is compiled.
    """
    data, learner, its_own, call = RECIPES[recipe]
    return _OURS.format(data=data, learner=learner, epochs=epochs or its_own, call=call)


def job(code: str, *arguments: str, cache: str) -> tuple[float, float]:
    """Returns a process's seconds from start to end, and its last error rate."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        capture_output=True,
        text=True,
    )
    elapsed = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    return elapsed, float(done.stdout.split()[-1])


def measure(root: Path, options: argparse.Namespace) -> list[dict]:
    """Returns the figures of one folder, for the options of the command line."""
    valid, recipes = "val" if (root / "val").is_dir() else "valid", options.recipe
    weights = Path(os.environ["JAXTUNE_WEIGHTS_DIR"]).glob(f"{options.arch}*")
    before = os.fspath(root), valid, options.arch
    after = str(options.size), str(options.batch_size), os.fspath(next(weights))
    times: dict[str, list] = {}
    errors: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/kept"
        for name in recipes:
            job(ours(name, epochs=1), *before, "0", *after, cache=cache)
        for seed in range(options.rounds):
            jobs = {
                "fastai": (_FASTAI, cache),
                "cold": (ours("default"), f"{folder}/{seed}"),
            }
            jobs |= {name: (ours(name), cache) for name in recipes}
            for name, (code, place) in jobs.items():
                arguments = (*before, str(seed), *after)
                elapsed, error = job(code, *arguments, cache=place)
                times.setdefault(name, []).append(elapsed)
                errors.setdefault(name, []).append(error)
                say(
                    {"job": name, "data": root.name, "seed": seed}
                    | {"seconds": round(elapsed, 1), "error_rate": round(error, 4)}
                )
    return [
        {
            "data": root.name,
            "who": name,
            "seconds": round(statistics.median(found), 1),
            **ratio(found, times["fastai"]),
            "error_rates": [round(error, 4) for error in errors[name]],
            "mean": round(statistics.mean(errors[name]), 4),
        }
        for name, found in times.items()
    ]


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="folders of JAXTUNE_DATA_DIR")
    parser.add_argument("--rounds", type=int, default=3, help="seeds")
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args(argv)
    about, rows = machine("torch", "fastai"), []
    for name in options.folders:
        root = Path(os.environ["JAXTUNE_DATA_DIR"]) / name
        found = measure(root, options)
        for row in found:
            say(row | about)
        rows += found
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    return rows


if __name__ == "__main__":
    main()
