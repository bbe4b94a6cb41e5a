"""What the learner's programs cost on a TPU, from its compiler, without a TPU.

    pip install "jax[tpu]"
    python -m benchmarks.tpu v5e:2x2 v5e:4x4 --arch resnet18 resnet50

Compiles with libtpu the very steps that a learner trains, validates and predicts with:
frozen and unfrozen, augmentation and normalisation included, from batches of uint8
photos as the loaders give them, rows split over the chips and the state on each.
Nothing runs, so these are the compiler's figures, for one chip:

- `gflop` and `gb`: what it counts of operations, and of bytes that go to and from
  memory;
- `memory_gb`: arguments, results and temporaries, beside the chip's;
- `collectives`: each kind that the chips exchange, how many and their megabytes;
- `compute_ms` and `bandwidth_ms`: the times below which a step can't come, at the
  chip's published peak in bfloat16 and at its memory's bandwidth.

One line of JSON for each program, then a table. `--each` adds a line for every
collective, with the place in the program that it comes from; `--text FOLDER` keeps the
compiled programs. A ResNet takes one to nine minutes a program on two cores.
"""

import argparse
import collections
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.measure import machine, say, table
from benchmarks.step import CLASSES


def devices(topology: str) -> list:
    """Returns the chips of a topology such as "v5e:2x2", which need not be there.

    From then on this process is one that compiles and has no accelerator.
    """
    # libtpu asks the network which TPU this is, and bears no other process beside it,
    # unless it is told that nothing will run.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    # A program for a device that is not there can be kept, and not be read again.
    jax.config.update("jax_enable_compilation_cache", False)
    return topologies.get_topology_desc(topology, platform="tpu").devices


class Chip(NamedTuple):
    """What is published of a chip: bfloat16 operations/s, bytes/s, and bytes."""

    flops: float
    bandwidth: float
    memory: float


#: From https://cloud.google.com/tpu/docs: v4, v5e, v5p and v6e, "System architecture".
CHIPS = {
    "v4": Chip(275e12, 1228e9, 32e9),
    "v5e": Chip(197e12, 819e9, 16e9),
    "v5p": Chip(459e12, 2765e9, 95e9),
    "v6e": Chip(918e12, 1640e9, 32e9),
}
PROGRAMS = ("frozen", "unfrozen", "eval", "predict")

#: Exchanges among devices, as XLA calls them.
KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    "collective-permute",
)
_COLLECTIVE = re.compile(
    rf"\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\("
)
#: An array's dtype and shape, as XLA writes them.
ARRAY = re.compile(r"\b(pred|bf16|[a-z]+(\d+)[a-z\d]*)\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_PLACE = re.compile(r'op_name="([^"]*)"')


class Collective(NamedTuple):
    """One exchange among the chips: its kind, arrays, bytes, and where it is from."""

    kind: str
    arrays: tuple[str, ...]
    num_bytes: int
    place: str


def array_bytes(array: re.Match) -> int:
    """Returns the bytes of an array of a program's text, a match of `ARRAY`."""
    bits = {"pred": 8, "bf16": 16}.get(array[1]) or int(array[2])
    return bits * math.prod(int(n) for n in array[3].split(",") if n) // 8


def collectives(text: str) -> Iterator[Collective]:
    """Yields what the chips exchange in a compiled program, in the order of its text.

    Args:
        text: Of the program, as `compiled.as_text()` gives it.
    """
    channels = set()
    for line in text.splitlines():
        found = _COLLECTIVE.match(line)
        if not found:
            continue
        # One that is spread over several fusions is written in each of them.
        channel = _CHANNEL.search(line)
        if channel and channel[1] in channels:
            continue
        channels.add(channel and channel[1])
        shapes, kind, starts = found.groups()
        arrays = list(ARRAY.finditer(shapes))
        if starts and kind != "all-reduce":
            # It begins here: operands come first, then the results, then its own state.
            arrays = arrays[1:2]
        num_bytes = sum(map(array_bytes, arrays))
        place = _PLACE.search(line)
        yield Collective(
            kind,
            tuple(f"{array[1]}[{array[3]}]" for array in arrays),
            num_bytes,
            place[1] if place else "",
        )


def programs(
    arch: str, size: int, precision: str, *, mesh: Mesh | None = None, **options
) -> dict[str, tuple]:
    """Returns a learner's functions, not compiled, with arguments as it gives them.

    Args:
        arch: Name of an architecture of jaxtune's.
        size: Of the network's images, in pixels.
        precision: "float32" or "bfloat16".
        mesh: Chips that the learner's `sharding` and `sync_batch_norm` are about; None
            if they are left as they are.
        **options: Of the learner, such as `rematerialize`.

    Returns:
        By name: the function, whether it gives up its first argument, its arguments
        that lie on every device, and those of which each device has some rows; the
        latter have `BATCH` rows.
    """
    import jaxtune
    from jaxtune.train import Phase, constant

    photos = np.zeros((2 * CLASSES, size, size, 3), np.uint8)
    labels = [f"class {i % CLASSES}" for i in range(len(photos))]
    data = jaxtune.ImageDataLoaders.from_arrays(
        (photos, labels), (photos.copy(), labels), size=size, batch_size=BATCH
    )
    model = jaxtune.vision_learner(
        data,
        getattr(jaxtune, arch),
        metrics=jaxtune.error_rate,
        pretrained=False,
        precision=precision,
        verbose=False,
        **options,
    )
    trainer, found = model._trainer, {}
    batch = next(data.train_loader.batches(0))
    for name in ("frozen", "unfrozen"):
        model.freeze() if name == "frozen" else model.unfreeze()
        rates = (1e-3,) * len(model.groups)
        phase = Phase(None, None, 1, rates, constant(), 0.01)
        if mesh is None:
            step, state = trainer.begin(phase)
        else:
            here, trainer.sharding = (
                trainer.sharding,
                NamedSharding(mesh, PartitionSpec()),
            )
            step, state = trainer._step_and_form(phase, trainer.frozen_groups)
            trainer.sharding = here
        found[name] = step, True, (state,), batch, (jax.random.key(0),)
    values, graphdef = trainer.values(), trainer.eval_graphdef()
    batch = next(data.valid_loader.batches(0))
    evaluate = trainer.programs.eval_step(graphdef)
    found["eval"] = evaluate, False, values, batch, ()
    answer = trainer.programs.answer_step(graphdef)
    found["predict"] = answer, False, values, batch["image"], ()
    return found


#: Rows of the batches that the programs are made with; they are compiled for others.
BATCH = 4


def compiled(program: tuple, chips: list, rows: int):
    """Returns a program of `programs` compiled for chips that need not be there.

    Args:
        program: Function, whether it gives up its state, and its arguments; those that
            are forms say themselves how they are split.
        chips: What `devices` returns; rows are split over all of them.
        rows: Of a batch, on each device.
    """
    step, donate, kept, batch, more = program
    mesh = Mesh(np.array(chips), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))

    def whole(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return x
        weak = getattr(x, "weak_type", False)
        return jax.ShapeDtypeStruct(
            np.shape(x), x.dtype, sharding=everywhere, weak_type=weak
        )

    def part(x):
        shape = (rows * len(chips), *np.shape(x)[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=split)

    forms = [
        *jax.tree.map(whole, kept),
        jax.tree.map(part, batch),
        *jax.tree.map(whole, more),
    ]
    # What `jax.jit` wraps, without the options for the machine that this runs on.
    run = jax.jit(step.__wrapped__, donate_argnums=(0,) if donate else ())
    return run.lower(*forms).compile()


def figures(program, chip: Chip) -> dict:
    """Returns what the compiler says of a compiled program, and the chip's floor."""
    cost, memory = program.cost_analysis(), program.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    used = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
    counts, sizes = collections.Counter(), collections.Counter()
    for found in collectives(program.as_text()):
        counts[found.kind] += 1
        sizes[found.kind] += found.num_bytes
    return {
        "gflop": round(cost["flops"] / 1e9, 1),
        "gb": round(cost["bytes accessed"] / 1e9, 1),
        "memory_gb": round(used / 1e9, 2),
        "temporaries_gb": round(memory.temp_size_in_bytes / 1e9, 2),
        "of_memory": round(used / chip.memory, 3),
        "collectives": {
            kind: {"count": count, "mb": round(sizes[kind] / 1e6, 3)}
            for kind, count in counts.items()
        },
        "compute_ms": round(1e3 * cost["flops"] / chip.flops, 2),
        "bandwidth_ms": round(1e3 * cost["bytes accessed"] / chip.bandwidth, 2),
    }


def measure(arch, topology: str, chips: list, name: str, program, options) -> dict:
    """Returns one program's row; where it doesn't fit, what the compiler says."""
    chip = CHIPS[topology.partition(":")[0]]
    row = {"topology": topology, "arch": arch, "program": name}
    row |= {"size": options.size, "batch": options.batch}
    began = time.perf_counter()
    try:
        made = compiled(program, chips, options.batch)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row | {"error": str(error).splitlines()[0][:300]}
    row["compile_s"] = round(time.perf_counter() - began, 1)
    if options.text is not None:
        options.text.mkdir(parents=True, exist_ok=True)
        place = f"{topology}-{arch}-{name}-{options.precision}.txt".replace(":", "-")
        (options.text / place).write_text(made.as_text())
    if options.each:
        for found in collectives(made.as_text()):
            say(row | found._asdict())
    return row | figures(made, chip)


def shown(row: dict) -> list:
    """Returns a row of the table."""
    start = [row["topology"], row["arch"], row["program"]]
    if "error" in row:
        return [*start, row["error"], *[""] * 6]
    chip = CHIPS[row["topology"].partition(":")[0]]
    travels = ", ".join(
        f"{found['count']} {kind} of {found['mb']:g} MB"
        for kind, found in row["collectives"].items()
    )
    return [
        *start,
        row["gflop"],
        row["gb"],
        f"{row['memory_gb']} of {chip.memory / 1e9:g}",
        travels or "none",
        row["compute_ms"],
        row["bandwidth_ms"],
        row["compile_s"],
    ]


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("topology", nargs="+", help="such as v5e:2x2 or v5p:2x2x1")
    parser.add_argument("--arch", nargs="+", default=["resnet50"])
    parser.add_argument(
        "--program", nargs="+", choices=PROGRAMS, default=list(PROGRAMS)
    )
    parser.add_argument("--batch", type=int, default=128, help="photos on each chip")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--precision", default="bfloat16", choices=["bfloat16", "float32"]
    )
    parser.add_argument(
        "--sharding", default="replicated", choices=["replicated", "fsdp"]
    )
    parser.add_argument("--own-statistics", action="store_true", help="of each chip")
    parser.add_argument("--each", action="store_true", help="a line a collective")
    parser.add_argument("--text", type=Path, help="folder for the compiled programs")
    options = parser.parse_args(argv)
    for topology in options.topology:
        if topology.partition(":")[0] not in CHIPS:
            parser.error(f"{topology} is none of {', '.join(CHIPS)}, such as v5e:2x2")
    chips = {name: devices(name) for name in options.topology}
    about, rows = machine("libtpu"), []
    about |= {"precision": options.precision, "sharding": options.sharding}
    about["own_statistics"] = options.own_statistics
    del about["device"], about["cores"]
    for arch in options.arch:
        for topology in options.topology:
            made = programs(
                arch,
                options.size,
                options.precision,
                mesh=Mesh(np.array(chips[topology]), ("data",)),
                sharding=options.sharding,
                sync_batch_norm=not options.own_statistics,
            )
            for name in options.program:
                row = measure(
                    arch, topology, chips[topology], name, made[name], options
                )
                rows.append(row)
                say(row | about)
    columns = ["topology", "network", "program", "GFLOP", "GB", "memory, GB"]
    columns += ["collectives", "floor by peak, ms", "by bandwidth, ms", "compiled, s"]
    print(table(columns, [shown(row) for row in rows]))
    return rows


if __name__ == "__main__":
    main()
