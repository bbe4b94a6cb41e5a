"""What keeping a run costs: blocking time and bytes of a save, overhead on an epoch.

    python -m benchmarks.checkpoint flowers5 --rounds 7 --epochs 3

A pretrained ResNet-18 on a folder of JAXTUNE_DATA_DIR (128 px, batches of 32), in both
phases of a fine-tuning. The peer is plain Orbax, given the same trees in the same run:

- a save: how long the training stands still until it may go on (jaxtune: a copy of the
  arrays; Orbax: `save_checkpointables_async`), how long until the checkpoint is whole,
  and its bytes. The two take turns; medians, and the range of the ratios.
- an epoch: wall time of `fit(1)` without a run, with `run=` (a save every ten seconds
  and one at the end), and without a run followed by one blocking
  `ocp.save_checkpointables`. They take turns too.

One line of JSON for each case, then tables. About 15 minutes on two cores.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

from jaxtune import ImageDataLoaders, error_rate, resnet18, vision_learner
from jaxtune.checkpoint import save_checkpoint_async
from jaxtune.train import (
    TrainState,
    group_optimizer,
    one_cycle,
    optimizer_labels,
    split_module,
)
from jaxtune.transfer import group_labels


def seconds(call: Callable) -> tuple[float, object]:
    """Returns how long a call takes, and what it returns."""
    began = time.perf_counter()
    answer = call()
    return time.perf_counter() - began, answer


def size_of(folder: Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def phase_state(model, frozen: tuple[str, ...]) -> TrainState:
    """Returns the state that a phase with these groups frozen keeps."""
    _, params, model_state = split_module(model.model)
    groups = group_labels(params, model.groups)
    labels = optimizer_labels(groups, frozen)
    tx = group_optimizer(labels, dict.fromkeys(model.groups, 1e-3), one_cycle(100))
    state = TrainState.create(params, model_state, tx)
    # Moments as training leaves them: zeros would be packed to nothing.
    opt_state = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape) if x.ndim else x,
        state.opt_state,
    )
    return jax.block_until_ready(state.replace(opt_state=opt_state))


def measure_save(name: str, state: TrainState, rounds: int) -> dict:
    """Returns the cost of one save, ours and plain Orbax's, in turn."""
    from flax import nnx
    from orbax.checkpoint import v1 as ocp

    def ours(path):
        return save_checkpoint_async(
            path,
            params=state.params,
            model_state=state.model_state,
            opt_state=state.opt_state,
            meta={"classes": ["a", "b"]},
        )

    def plain(path):
        trees = {
            "params": nnx.to_pure_dict(state.params),
            "model_state": nnx.to_pure_dict(state.model_state),
            "opt_state": state.opt_state,
        }
        return ocp.save_checkpointables_async(path, trees)

    figures: dict[str, list] = {"jaxtune": [], "orbax": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for who, save in (("jaxtune", ours), ("orbax", plain)):
                path = Path(folder) / f"{who}-{number}"
                began = time.perf_counter()
                blocked, saving = seconds(lambda: save(path))  # noqa: B023
                saving.result()
                whole = time.perf_counter() - began
                if number:  # The first warms up.
                    figures[who].append((blocked, whole, size_of(path)))
    ratios = [a[0] / b[0] for a, b in zip(*figures.values(), strict=True)]
    row = {"case": f"save, {name}", "arrays": len(jax.tree.leaves(state))}
    for who, found in figures.items():
        blocked, whole, size = (
            statistics.median(column) for column in zip(*found, strict=True)
        )
        row[who] = {
            "blocking_ms": round(1000 * blocked, 1),
            "whole_ms": round(1000 * whole, 1),
            "megabytes": round(size / 1e6, 1),
        }
    row["blocking_ratio"] = round(statistics.median(ratios), 2)
    row["range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    return row


def measure_epoch(name: str, model, epochs: int) -> dict:
    """Returns wall times of an epoch: not kept, kept, and followed by plain Orbax."""
    from flax import nnx
    from orbax.checkpoint import v1 as ocp

    def with_orbax(path):
        model.fit(1, 1e-5)
        _, params, model_state = split_module(model.model)
        trees = {"params": params, "model_state": model_state}
        ocp.save_checkpointables(
            path, {item: nnx.to_pure_dict(tree) for item, tree in trees.items()}
        )

    ways = {
        "not kept": lambda path: model.fit(1, 1e-5),
        "kept": lambda path: model.fit(1, 1e-5, run=path, save_every=10),
        "plain orbax": with_orbax,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        model.fit(1, 1e-5)  # Compiles.
        for number in range(epochs):
            for way, call in ways.items():
                path = Path(folder) / f"{way}-{number}"
                times[way].append(seconds(lambda: call(path))[0])  # noqa: B023
    row: dict = {"case": f"epoch, {name}"}
    for way, found in times.items():
        row[way] = round(statistics.median(found), 2)
        ratios = [a / b for a, b in zip(found, times["not kept"], strict=True)]
        row[f"{way}, ratio"] = round(statistics.median(ratios), 3)
        row[f"{way}, range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return row


def tables(rows: list[dict]) -> str:
    """Returns the figures as two Markdown tables."""
    lines = [
        "| save | arrays | who | stands still, ms | whole after, ms | MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in (r for r in rows if r["case"].startswith("save")):
        for who in ("jaxtune", "orbax"):
            found = row[who]
            lines.append(
                f"| {row['case'][6:]} | {row['arrays']} | {who} "
                f"| {found['blocking_ms']} | {found['whole_ms']} "
                f"| {found['megabytes']} |"
            )
    lines += [
        "",
        "| epoch | not kept, s | kept | plain Orbax at its end |",
        "|---|---|---|---|",
    ]
    for row in (r for r in rows if r["case"].startswith("epoch")):
        ratios = [
            f"x {row[f'{way}, ratio']} ({row[f'{way}, range'][0]} to "
            f"{row[f'{way}, range'][1]})"
            for way in ("kept", "plain orbax")
        ]
        lines.append(
            f"| {row['case'][7:]} | {row['not kept']} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="a folder of JAXTUNE_DATA_DIR")
    parser.add_argument("--rounds", type=int, default=7, help="saves of each kind")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each kind")
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    root = Path(os.environ["JAXTUNE_DATA_DIR"]) / options.folder
    valid = "valid" if (root / "valid").is_dir() else "val"
    data = ImageDataLoaders.from_folder(
        root, valid=valid, size=options.size, batch_size=32, seed=0
    )
    model = vision_learner(data, resnet18, metrics=error_rate, verbose=False)
    rows = []
    for name, frozen in (("body frozen", model.frozen_groups), ("all train", ())):
        model.freeze_to(len(frozen))
        rows.append(measure_save(name, phase_state(model, frozen), options.rounds))
        print(json.dumps(rows[-1]), flush=True)
        rows.append(measure_epoch(name, model, options.epochs))
        print(json.dumps(rows[-1]), flush=True)
    devices = jax.local_devices()
    print(f"\njax {jax.__version__}, {devices[0].device_kind}, load {os.getloadavg()}")
    print(tables(rows))


if __name__ == "__main__":
    main()
