"""What the learner's programs are on an H100, from XLA's GPU compiler, without one.

    pip install jax-cuda13-plugin jax-cuda13-pjrt
    python -m benchmarks.h100 --arch resnet18 resnet50

Compiles the very steps that a learner trains, validates and predicts with, as
`benchmarks.tpu` does, for the card that `TARGET` describes. Nothing runs and nothing is
tuned on a card, so there are no times. For each program:

- `fused`: convolutions that are one call of cuDNN with bias, residual sum and ReLU;
- `convolutions`: the other calls of cuDNN, forward and backward;
- `kernels`: all that is launched;
- `memory_gb`: arguments and temporaries;
- `gb`: what the kernels read and write, each operand and result counted once, and the
  time below which they can't come at the card's bandwidth.

`--rematerialize` trains with blocks that are computed again for their gradients.
One line of JSON for each program, then a table. Some seconds a program on two cores.
"""

import argparse
import collections
import os
import re
import time
from pathlib import Path

from benchmarks.measure import machine, say, table
from benchmarks.tpu import ARRAY, PROGRAMS, array_bytes, compiled, programs

#: An H100 SXM, in the words of XLA's `GpuTargetConfigProto`; NVIDIA's data sheet and
#: `cudaGetDeviceProperties` have the numbers.
TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 13 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
BANDWIDTH = 3.35e12

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z-]+)\((.*)")
_FUSED = "__cudnn$convBiasActivationForward"
#: Instructions that launch nothing.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


def card() -> list:
    """Returns the card as JAX's device; this process has no accelerator then."""
    import jax
    from jax.experimental import topologies

    # Candidates can't be timed without a card.
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_autotune_level=0"]
    )
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    topology = topologies.get_topology_desc(
        "h100", "cuda", target_config=TARGET, topology="1x1x1"
    )
    return topology.devices


def figures(text: str) -> dict:
    """Returns what a compiled program launches, and the bytes that go through memory.

    Args:
        text: Of the program, as `compiled.as_text()` gives it.
    """
    sizes, calls = {}, collections.Counter()
    kernels = total = 0
    for line in text[text.index("\nENTRY") :].splitlines():
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        name, shapes, operation, rest = found.groups()
        sizes[name] = sum(map(array_bytes, ARRAY.finditer(shapes)))
        if operation in _FREE:
            continue
        operands = re.findall(r"%([\w.-]+)", rest.partition("), ")[0])
        total += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
        kernels += 1
        calls.update(re.findall(r'custom_call_target="(__cudnn\$conv\w+)"', line))
    fused = calls.pop(_FUSED, 0)
    return {
        "fused": fused,
        "convolutions": sum(calls.values()),
        "kernels": kernels,
        "num_bytes": total,
        "gb": round(total / 1e9, 2),
        "bandwidth_ms": round(1e3 * total / BANDWIDTH, 2),
    }


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["resnet50"])
    parser.add_argument(
        "--program", nargs="+", choices=PROGRAMS, default=list(PROGRAMS)
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--precision", default="bfloat16", choices=["bfloat16", "float32"]
    )
    parser.add_argument("--rematerialize", action="store_true")
    parser.add_argument("--text", type=Path, help="folder for the compiled programs")
    options = parser.parse_args(argv)
    device, rows = card(), []
    about = machine("jax-cuda13-plugin") | {"precision": options.precision}
    about["rematerialize"] = options.rematerialize
    del about["device"], about["cores"]
    for arch in options.arch:
        made = programs(
            arch,
            options.size,
            options.precision,
            rematerialize=options.rematerialize,
        )
        for name in options.program:
            row = {"arch": arch, "program": name}
            row |= {"size": options.size, "batch": options.batch}
            began = time.perf_counter()
            program = compiled(made[name], device, options.batch)
            text, memory = program.as_text(), program.memory_analysis()
            row["compile_s"] = round(time.perf_counter() - began, 1)
            if options.text is not None:
                options.text.mkdir(parents=True, exist_ok=True)
                place = f"h100-{arch}-{name}-{options.precision}.txt"
                (options.text / place).write_text(text)
            used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
            row["memory_gb"] = round(used / 1e9, 2)
            rows.append(row | figures(text))
            say(rows[-1] | about)
    columns = ["network", "program", "fused", "other convolutions", "kernels"]
    columns += ["memory, GB", "GB", "by bandwidth, ms", "compiled, s"]
    keys = ["arch", "program", "fused", "convolutions", "kernels", "memory_gb"]
    keys += ["gb", "bandwidth_ms", "compile_s"]
    print(table(columns, [[row[key] for key in keys] for row in rows]))
    return rows


if __name__ == "__main__":
    main()
