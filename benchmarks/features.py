"""What keeping a frozen body's features saves, and what it costs in error.

    python -m benchmarks.features hymenoptera flowers5 --epochs 10 --rounds 2

Fine-tunes a pretrained ResNet-18 (128 px, batches of 32, random resized crop, flip) on
each folder of JAXTUNE_DATA_DIR with `cache_features` of 0, 1, 2 and as many as there
are frozen epochs, one after the other in each round, which is a seed. Measured is the
frozen phase: its seconds, as a ratio to those of the same round without stored
features, and the error rate after it. One line of JSON for each case, and a table.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import jaxtune
from benchmarks.measure import machine, ratio, say, table
from jaxtune import ImageDataLoaders, error_rate, vision_learner


def run(root: Path, epochs: int, draws: int, *, seed: int, arch: str) -> dict:
    """Returns the seconds of the frozen phase, and the error rate after it."""
    valid = "valid" if (root / "valid").is_dir() else "val"
    data = ImageDataLoaders.from_folder(
        root, valid=valid, size=128, batch_size=32, seed=seed
    )
    network = getattr(jaxtune, arch)
    model = vision_learner(data, network, metrics=error_rate, verbose=False)
    frozen, _ = model.plan(1, freeze_epochs=epochs, cache_features=draws).phases
    began = time.perf_counter()
    model.fit_phases([frozen])
    return {
        "seconds": time.perf_counter() - began,
        "error": model.history[-1].metrics["error_rate"],
    }


def measured(root: Path, epochs: int, rounds: int, **options) -> list[dict]:
    """Returns a row for each number of draws; 0 draws keep no features."""
    cases = sorted({0, 1, 2, epochs})
    found: dict[int, list[dict]] = {draws: [] for draws in cases}
    for seed in range(rounds):
        for draws in cases:
            found[draws].append(run(root, epochs, draws, seed=seed, **options))
    plain = [each["seconds"] for each in found[0]]
    rows = []
    for draws, figures in found.items():
        seconds = [each["seconds"] for each in figures]
        rows.append(
            {
                "photos": root.name,
                "epochs": epochs,
                "draws": draws,
                "seconds": round(statistics.median(seconds), 1),
                **ratio(seconds, plain),
                "errors": [round(each["error"], 3) for each in figures],
            }
        )
        say(rows[-1])
    return rows


def main(arguments: list[str] | None = None) -> list[dict]:
    """Runs the command line; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="folders of JAXTUNE_DATA_DIR")
    parser.add_argument("--epochs", type=int, default=10, help="with a frozen body")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arch", default="resnet18")
    options = parser.parse_args(arguments)
    say(machine("jax", "flax"))
    rows = []
    for folder in options.folders:
        root = Path(os.environ.get("JAXTUNE_DATA_DIR", ".")) / folder
        rows += measured(root, options.epochs, options.rounds, arch=options.arch)
    print(
        table(
            ["photos", "epochs", "draws", "seconds", "ratio", "error"],
            [
                [
                    row["photos"], row["epochs"], row["draws"] or "none kept",
                    row["seconds"], row["ratio"],
                    " ".join(f"{error:.3f}" for error in row["errors"]),
                ]
                for row in rows
            ],
        )
    )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
