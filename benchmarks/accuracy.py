"""How well fine-tuning learns: error rates of each `norms` on folders of photos.

    python -m benchmarks.accuracy hymenoptera flowers5 --seeds 3 --out results.json

Fine-tunes a pretrained ResNet-18 (`fine_tune(3)`, 128 px, batches of
32, random resized crop with min_scale 0.35, flip) on each folder of JAXTUNE_DATA_DIR
with each `norms` and seed, and prints the final error rates, one line of JSON a run,
and a table of means. About 40 minutes for two folders and three seeds on two cores.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from jaxtune import ImageDataLoaders, error_rate, resnet18, vision_learner


def run(root: Path, norms: str, seed: int) -> dict:
    """Returns the figures of one fine-tuning."""
    began = time.perf_counter()
    valid = "valid" if (root / "valid").is_dir() else "val"
    data = ImageDataLoaders.from_folder(
        root, valid=valid, size=128, batch_size=32, seed=seed
    )
    model = vision_learner(
        data, resnet18, metrics=error_rate, norms=norms, verbose=False
    )
    history = model.fine_tune(3)
    return {
        "data": root.name,
        "norms": norms,
        "seed": seed,
        "error_rates": [row.metrics["error_rate"] for row in history],
        "seconds": round(time.perf_counter() - began, 1),
    }


def table(results: list[dict]) -> str:
    """Returns a Markdown table: one row for each folder and `norms`."""
    lines = [
        "| data set | norms | error rate by seed | mean | s.d. |",
        "|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["data"], r["norms"]) for r in results):
        rates = [
            r["error_rates"][-1] for r in results if (r["data"], r["norms"]) == key
        ]
        spread = statistics.stdev(rates) if len(rates) > 1 else 0.0
        shown = " ".join(f"{rate:.3f}" for rate in rates)
        mean = statistics.mean(rates)
        lines.append(f"| {key[0]} | {key[1]} | {shown} | {mean:.3f} | {spread:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="folders of JAXTUNE_DATA_DIR")
    parser.add_argument("--norms", nargs="+", default=["train", "running"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    options = parser.parse_args()
    results = []
    for norms in options.norms:
        for folder in options.folders:
            root = Path(os.environ["JAXTUNE_DATA_DIR"]) / folder
            for seed in range(options.seeds):
                results.append(run(root, norms, seed))
                print(json.dumps(results[-1]), flush=True)
                if options.out is not None:
                    options.out.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
