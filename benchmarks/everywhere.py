"""Whether jaxtune is right on this machine, in one command of a few minutes.

    pip install ".[test]"
    python -m benchmarks.everywhere                       # made-up photos
    python -m benchmarks.everywhere --data flowers5       # photos of your own

For a machine with an accelerator. Training is done in processes of its own: one that is
ended by a signal loses nothing but its item. Each item says at once what came out:

- `fine_tune`: of ResNet-18 and ResNet-50, float32 and bfloat16, at 224 px: a few steps
  frozen and a few unfrozen, validated after each phase. Every loss and error must be as
  on this machine's CPU in float32, with XLA's own convolutions, to the distance that
  is printed: a GPU multiplies float32 as TF32, which has 10 bits of mantissa, and
  bfloat16 has 7;
- `frozen`: the body's parameters and statistics are bit for bit what they were when the
  frozen phase began, and not what they are when the unfrozen one ends;
- `twice`: the same run in another process ends bit for bit the same. Where it does not,
  it is asked again with the flag that makes XLA's GPU compiler choose kernels which add
  up in a fixed order (cuDNN's, and scatters, may use atomic additions otherwise);
- `resumed`: a run that is kept (`run=`), killed with SIGKILL in its last phase and
  resumed by another process, ends bit for bit as the one that nothing killed;
- `tests`: pytest passes on tests/train, tests/models and tests/transfer, which multiply
  float32 as float32, with that flag: some compare two runs bit for bit.

`twice` and `resumed` are asked of the first network only. As many runs share the device
as the processor has cores for (`--jobs`). Ends with status 1 if something is not as it
should be. One line of JSON for each item, then a table.
On a CPU, small: `python -m benchmarks.everywhere --arch resnet18 --size 64 --batch 8
--no-pretrained --no-tests`.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import say, table

ROOT = Path(__file__).parents[1]
TESTS = ("tests/train", "tests/models", "tests/transfer")

#: How far a loss may be from the CPU's in float32, as a share of it, and an error rate.
DISTANCE = {"float32": (0.02, 0.1), "bfloat16": (0.1, 0.2)}

#: The same where every parameter starts at random: fifty such layers enlarge rounding.
DISTANCE_AT_RANDOM = {"float32": (0.3, 0.3), "bfloat16": (0.5, 0.5)}

#: Kernels of one fixed order of additions only; slower. Flags of XLA's GPU compiler.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

#: Several processes share the device: none may take its memory beforehand.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

#: Unfrozen steps after which a run that is to be resumed is killed.
KILLED_AFTER = 2


class ItemError(Exception):
    """Says why an item is not as it should be."""


def make_photos(root: Path, *, train: int, valid: int, size: int) -> None:
    """Writes train/ and valid/ with so many made-up photos of three colours."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("valid", valid)):
        for i in range(count):
            name, channel = (("blue", 2), ("green", 1), ("red", 0))[i % 3]
            coarse = rng.integers(0, 160, (8, 8, 3), np.uint8)
            coarse[..., channel] += 60
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            photo = Image.fromarray(coarse).resize((size * 4 // 3, size))
            photo.save(folder / f"{i:03d}.jpg", quality=95)


def few_photos(source: Path, root: Path, *, train: int, valid: int) -> None:
    """Links so many photos of a folder's train/ and valid/ (or val/), of each class."""
    for split, count in (("train", train), ("valid", valid)):
        place = source / split
        if not place.is_dir() and split == "valid":
            place = source / "val"
        classes = [sorted(f.iterdir()) for f in sorted(place.iterdir()) if f.is_dir()]
        if not classes:
            raise SystemExit(f"{place} has no folders of photos, one for each class.")
        # In turn from each class, so that every one of them is there.
        longest = max(map(len, classes))
        turns = [f[i] for i in range(longest) for f in classes if i < len(f)]
        for photo in turns[:count]:
            link = root / split / photo.parent.name / photo.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(photo.resolve())


def architecture(name: str):
    """Returns jaxtune's architecture of a name, or what `module:function` names."""
    import jaxtune

    module, _, function = name.rpartition(":")
    return getattr(importlib.import_module(module) if module else jaxtune, function)


def job(settings: Mapping) -> None:
    """Fine-tunes in this process; prints a line of JSON for each step, and the result.

    Args:
        settings: `arch`, `precision`, `photos` (a folder of train/ and valid/), `size`,
            `batch`, `pretrained`, and `run`: where it is kept, or None.
    """
    import jax

    import jaxtune
    from jaxtune.checkpoint import fingerprint

    losses, prints = [], {}

    class Watch(jaxtune.Callback):
        def body(self):
            return fingerprint(jaxtune.split_module(self.learner.model[0])[1:])

        def on_phase_begin(self, phase):
            prints[f"body before phase {phase}"] = self.body()

        def on_train_batch_end(self, batch, logs):
            losses.append(float(logs["loss"]))
            say({"phase": self.phase, "step": batch})

        def on_phase_end(self, phase):
            prints[f"body after phase {phase}"] = self.body()

    data = jaxtune.ImageDataLoaders.from_folder(
        settings["photos"],
        train="train",
        valid="valid",
        size=settings["size"],
        batch_size=settings["batch"],
        seed=0,
    )
    model = jaxtune.vision_learner(
        data,
        architecture(settings["arch"]),
        metrics=jaxtune.error_rate,
        pretrained=settings["pretrained"],
        precision=settings["precision"],
        seed=0,
        verbose=False,
    )
    began = time.perf_counter()
    # At the usual rate a random network explodes, and rounding with it.
    rate = {} if settings["pretrained"] else {"base_lr": 1e-4}
    keeping = {"run": settings["run"], "save_every": 0}
    history = model.fine_tune(1, freeze_epochs=1, callbacks=Watch(), **rate, **keeping)
    values = jaxtune.split_module(model.model)[1:]
    say(
        {
            "device": jax.local_devices()[0].device_kind,
            "devices": jax.local_device_count(),
            "seconds": round(time.perf_counter() - began, 1),
            "losses": losses + [row.valid_loss for row in history],
            "errors": [row.metrics["error_rate"] for row in history],
            "values": fingerprint(values),
            **prints,
        }
    )


class Job:
    """`job` in a process of its own."""

    def __init__(self, settings: Mapping, environment: Mapping):
        """Starts it."""
        code = "import json, sys\nfrom benchmarks.everywhere import job\n"
        code += "job(json.loads(sys.argv[1]))"
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(settings)],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def result(self, limit: float) -> dict:
        """Returns what it printed last.

        Raises:
            ItemError: If it ended in another way, or not in `limit` seconds.
        """
        with contextlib.closing(self):
            for row in self._rows(limit):
                if "values" in row:
                    return row
            raise self._why()

    def kill_at(self, phase: int, step: int, limit: float) -> None:
        """Ends it with SIGKILL once it has done a step of a phase.

        Raises:
            ItemError: If it comes to its end before, or not there in `limit` seconds.
        """
        with contextlib.closing(self):
            for row in self._rows(limit):
                if row.get("phase") == phase and row["step"] >= step:
                    return
            raise self._why()

    def close(self) -> None:
        """Ends it with SIGKILL, if it runs, and closes its files."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _why(self) -> ItemError:
        self._errors.seek(0)
        status = self._process.returncode
        how = f"its process ended with status {status}"
        if status < 0:
            how = f"{signal.Signals(-status).name} ended its process"
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        # What XLA aborts with comes before the stack, what Python does after it.
        telling = [line for line in lines if re.search(r"Check failed|Error\b", line)]
        return ItemError(": ".join([how, *(telling or lines)[-1:]])[:500])

    def _rows(self, limit: float) -> Iterator[dict]:
        late = threading.Event()
        timer = threading.Timer(limit, lambda: (late.set(), self._process.kill()))
        timer.start()
        try:
            for line in self._process.stdout:
                yield json.loads(line)
            self._process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            raise ItemError(f"it did not end in {limit:.0f} s")


def distances(found: Mapping, cpu: Mapping) -> tuple[float, float]:
    """Returns how far losses are from the CPU's, as a share of them, and the errors.

    Raises:
        ItemError: If a loss is no number.
    """
    if not np.isfinite(found["losses"]).all():
        raise ItemError(f"losses are {found['losses']}")
    losses, wanted = np.array(found["losses"]), np.array(cpu["losses"])
    errors = np.abs(np.subtract(found["errors"], cpu["errors"]))
    return float((np.abs(losses - wanted) / wanted).max()), float(errors.max())


class Item(NamedTuple):
    """One question: its name, network and precision, and the function that asks it."""

    name: str
    arch: str
    precision: str
    ask: Callable[[str, str], dict]

    def row(self) -> dict:
        """Asks it; returns what came out, with `right` and `took_s`."""
        row = {"item": self.name, "arch": self.arch, "precision": self.precision}
        began = time.perf_counter()
        try:
            row |= {"right": True, **self.ask(self.arch, self.precision)}
        except Exception as error:  # Whatever it is, the others are asked too.
            why = str(error) if isinstance(error, ItemError) else repr(error)
            row |= {"right": False, "why": why}
        row["took_s"] = round(time.perf_counter() - began, 1)
        say(row)
        return row


class Machine:
    """Asks the items of this machine; what one finds is kept for those that follow."""

    def __init__(self, options, folder: Path):
        """Takes the command line's options and a folder for what is written."""
        self.options, self.folder = options, folder
        counts = {"train": options.steps * options.batch, "valid": options.valid}
        self.photos = folder / "photos"
        if options.data is None:
            make_photos(self.photos, size=options.size * 3 // 2, **counts)
        else:
            few_photos(_found(options.data), self.photos, **counts)
        self.environment = SHARED | {
            "JAX_COMPILATION_CACHE_DIR": os.fspath(folder / "programs"),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [os.fspath(ROOT), os.environ.get("PYTHONPATH")])
            ),
        }
        # They run beside the accelerator's.
        cpu = {"JAX_PLATFORMS": "cpu", "JAXTUNE_ONEDNN": "0"}
        self.on_cpu = {a: self.start(a, "float32", **cpu) for a in options.arch}
        self.lock = threading.Lock()
        self.found: dict[tuple, dict] = {}
        self.flags: dict[str, str] = {}

    def start(self, arch, precision, *, run=None, **environment) -> Job:
        """Starts a job."""
        settings = {
            "arch": arch,
            "precision": precision,
            "photos": os.fspath(self.photos),
            "size": self.options.size,
            "batch": self.options.batch,
            "pretrained": self.options.pretrained,
            "run": None if run is None else os.fspath(run),
        }
        return Job(settings, self.environment | environment)

    def run(self, *arguments, **options) -> dict:
        """Returns a job's result."""
        return self.start(*arguments, **options).result(self.options.limit)

    def by_cpu(self, arch: str) -> dict:
        """Returns the result that others are compared with."""
        with self.lock:
            if ("cpu", arch) not in self.found:
                self.found["cpu", arch] = self.on_cpu[arch].result(self.options.limit)
            return self.found["cpu", arch]

    def items(self) -> Iterator[list[Item]]:
        """Yields lists of items; those of one list need what the ones before found."""
        for arch in self.options.arch:
            for precision in self.options.precision:
                asked = [self.fine_tune, self.frozen]
                if arch == self.options.arch[0]:
                    asked += [self.twice, self.resumed]
                yield [Item(ask.__name__, arch, precision, ask) for ask in asked]
        if self.options.tests:
            yield [Item("tests", "", "", lambda *_: self.tests())]

    def fine_tune(self, arch: str, precision: str) -> dict:
        """Trains, and compares with the CPU."""
        found = self.found[arch, precision] = self.run(arch, precision)
        loss, error = distances(found, self.by_cpu(arch))
        row = {"device": f"{found['devices']} x {found['device']}"}
        row |= {"seconds": found["seconds"], "losses_off": round(loss, 5)}
        by_start = DISTANCE if self.options.pretrained else DISTANCE_AT_RANDOM
        allowed = by_start[precision]
        row |= {"errors_off": round(error, 4), "allowed": list(allowed)}
        row |= {"losses": [round(x, 4) for x in found["losses"]]}
        if loss > allowed[0] or error > allowed[1]:
            raise ItemError(f"farther from the CPU than allowed: {row}")
        return row

    def before(self, arch: str, precision: str) -> dict:
        """Returns what `fine_tune` found."""
        if (arch, precision) not in self.found:
            raise ItemError("fine_tune has not come to its end")
        return self.found[arch, precision]

    def frozen(self, arch: str, precision: str) -> dict:
        """Looks at the body before and after each phase."""
        found = self.before(arch, precision)
        was, stays, ends = (
            found[f"body {when}"]
            for when in ("before phase 1", "after phase 1", "after phase 2")
        )
        if was != stays:
            raise ItemError("the frozen body's values are not what they were")
        if was == ends:
            raise ItemError("the unfrozen phase changed nothing of the body")
        return {"sha256": stays[:12]}

    def twice(self, arch: str, precision: str) -> dict:
        """Trains the same again; where that differs, with one order of additions."""
        first = self.before(arch, precision)["values"]
        second = self.run(arch, precision)["values"]
        self.flags[precision] = ""
        if first == second:
            return {"sha256": first[:12]}
        self.flags[precision] = DETERMINISTIC
        pair = [self.deterministic(arch, precision) for _ in range(2)]
        if pair[0] != pair[1]:
            raise ItemError(f"two runs differ, and with {DETERMINISTIC} too")
        return {"sha256": pair[0][:12], "only_with": DETERMINISTIC}

    def deterministic(self, arch: str, precision: str, *, run=None) -> str:
        """Returns the values' sha256 of a run with the flags that `twice` found."""
        return self.run(arch, precision, run=run, **self.xla_flags(precision))["values"]

    def xla_flags(self, precision: str) -> dict:
        """Returns the environment that makes two runs the same."""
        flag = self.flags.get(precision, "")
        if not flag:
            return {}
        # XLA keeps the fastest kernels beside the programs, and would take those again.
        programs = os.fspath(self.folder / "programs-deterministic")
        flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        return {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": programs}

    def resumed(self, arch: str, precision: str) -> dict:
        """Kills a run that is kept, and takes it up."""
        run = self.folder / f"run-{precision}"
        flags = self.xla_flags(precision)
        first = self.start(arch, precision, run=run, **flags)
        first.kill_at(2, KILLED_AFTER - 1, self.options.limit)
        ends = self.deterministic(arch, precision, run=run)
        whole = self.deterministic(arch, precision)
        if ends != whole:
            raise ItemError("it does not end as the run that nothing killed")
        row = {"sha256": ends[:12], "killed_after": f"step {KILLED_AFTER} of phase 2"}
        return row | ({"only_with": DETERMINISTIC} if self.flags.get(precision) else {})

    def tests(self) -> dict:
        """Runs the tests of what computes."""
        flags = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
        # Where pytest-benchmark is, it warns of workers, and warnings are errors.
        quiet = ("-p", "no:benchmark")
        workers = min(max(2, (os.cpu_count() or 1) // 2), 8)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", f"{workers}", *quiet, *TESTS],
            cwd=ROOT,
            env=os.environ | SHARED | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
        )
        lines = (done.stdout or done.stderr).strip().splitlines() or ["no output"]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        if done.returncode:
            why = [line for line in lines if line.startswith("E  ")]
            raise ItemError("; ".join([lines[-1], *failed, *why])[:3000])
        return {"pytest": lines[-1].strip("= ")}

    def close(self) -> None:
        """Ends what still runs."""
        for process in self.on_cpu.values():
            process.close()


def _found(folder: Path) -> Path:
    """A folder as it is given, or of that name in JAXTUNE_DATA_DIR."""
    places = [folder]
    if "JAXTUNE_DATA_DIR" in os.environ:
        places.append(Path(os.environ["JAXTUNE_DATA_DIR"]) / folder)
    for place in places:
        if (place / "train").is_dir():
            return place
    raise SystemExit(f"no folder train/ in {' or '.join(map(str, places))}.")


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the items, each with `right` True or False."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of train/ and valid/ or val/")
    parser.add_argument(
        "--arch",
        nargs="+",
        default=["resnet18", "resnet50"],
        help="jaxtune's, or your own as module:function",
    )
    parser.add_argument(
        "--precision", nargs="+", default=list(DISTANCE), choices=list(DISTANCE)
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="in each phase")
    parser.add_argument("--valid", type=int, default=24, help="photos to validate on")
    parser.add_argument("--limit", type=float, default=300, help="seconds of a run")
    parser.add_argument(
        "--jobs",
        type=int,
        default=max(1, (os.cpu_count() or 1) // 3),
        help="so many runs share the device at a time",
    )
    parser.add_argument("--no-pretrained", dest="pretrained", action="store_false")
    parser.add_argument("--no-tests", dest="tests", action="store_false")
    options = parser.parse_args(argv)
    if options.steps <= KILLED_AFTER:
        parser.error(f"--steps must be more than {KILLED_AFTER}: a run is killed there")
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(options, Path(folder))
        with contextlib.closing(machine), ThreadPoolExecutor(options.jobs) as pool:
            lists = pool.map(lambda items: [i.row() for i in items], machine.items())
            rows = [row for rows in lists for row in rows]
    columns = ["item", "network", "precision", "", "what came out", "seconds"]
    print(table(columns, [_shown(row) for row in rows]))
    return rows


def _shown(row: dict) -> list:
    left_out = ("item", "arch", "precision", "right", "took_s", "losses")
    said = ", ".join(f"{k} {v}" for k, v in row.items() if k not in left_out)
    right = "right" if row["right"] else "WRONG"
    return [row["item"], row["arch"], row["precision"], right, said, row["took_s"]]


def status() -> int:
    """Returns what the process ends with: 0 if all is as it should be."""
    return int(not all(row["right"] for row in main()))


if __name__ == "__main__":
    sys.exit(status())
