"""Runs that nothing can interrupt: killed, asked to stop, resumed, finished."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import runs
from flax import nnx
from photos import make_photos

from jaxtune import vision_learner
from jaxtune.checkpoint import (
    CheckpointDamagedError,
    RunFolder,
    RunMismatchError,
    checkpoint_numbers,
    environment,
    find_checkpoint,
    inspect_checkpoint,
    load_meta,
)
from jaxtune.loop.resume import Resume, RunStopped
from jaxtune.models import Sequential
from jaxtune.train import fine_tune_phases

#: Steps and validations of phase 1, and of the whole run.
BOUNDARY = runs.FREEZE_EPOCHS * 13
END = BOUNDARY + runs.EPOCHS * 13


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Processes of this module share compiled programs, however small."""
    patch = pytest.MonkeyPatch()
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("programs")))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def whole(root):
    """What the run gives that was not stopped and not kept: bits and figures."""
    model = runs.make_learner(root, verbose=False)
    history = model.fine_tune(runs.EPOCHS, 1e-2, freeze_epochs=runs.FREEZE_EPOCHS)
    return [runs.bits(model), runs.figures(history)]


def fine_tune(root, run, **options):
    """Fine-tunes in this process; returns bits and figures."""
    model = runs.make_learner(root)
    history = model.fine_tune(
        runs.EPOCHS,
        1e-2,
        **{"freeze_epochs": runs.FREEZE_EPOCHS, "save_every": 0, **options},
        run=run,
    )
    return [runs.bits(model), runs.figures(history)]


class Child:
    """A run in a process of its own, begun or resumed."""

    def __init__(self, folder: Path, root: Path, *options):
        self.run = folder / "run"
        self.answer = folder / "answer.json"
        self.output = folder / "output.txt"
        before = self.text()
        self.seen = set(checkpoint_numbers(self.run))
        self.process = runs.start(root, self.run, self.answer, self.output, *options)
        self.began = time.monotonic()
        self.has_begun = lambda: "phase 1/2" in self.text()[len(before) :]

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def is_saving(self) -> bool:
        folder = self.run / "checkpoints"
        try:
            return any("orbax-checkpoint-tmp" in name for name in os.listdir(folder))
        except FileNotFoundError:
            return False

    def has_saved(self) -> bool:
        return bool(set(checkpoint_numbers(self.run)) - self.seen)

    def has_passed_the_boundary(self) -> bool:
        return any(n > BOUNDARY for n in checkpoint_numbers(self.run))

    def wait_for(self, condition) -> None:
        while self.process.is_alive() and not condition():
            time.sleep(0.001)

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.wait_for(lambda: time.monotonic() >= end)

    def stop(self, number: signal.Signals) -> int:
        """Sends a signal, waits for the end, and returns the exit status."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)
        self.process.join()
        return self.process.exitcode


def moments(rng: random.Random, rounds: int) -> list:
    """Eight ways to wait until the moment of a kill; after a round in random order."""

    def early(child):
        child.wait(rng.uniform(0, 3))

    def begun(child):
        child.wait_for(child.has_begun)
        child.wait(rng.uniform(0, 0.6))

    def saving(child):
        child.wait_for(child.is_saving)
        child.wait(rng.uniform(0, 0.03))

    def saved(child):
        child.wait_for(child.has_saved)

    def past(child):
        child.wait_for(child.has_passed_the_boundary)

    ways = [begun, saved, saving, saving, past, early, saving, begun]
    later = ways * (rounds - 1)
    rng.shuffle(later)
    return ways + later


@pytest.mark.end_to_end
@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_ends_bit_for_bit_the_same(
    root, whole, tmp_path, rounds
):
    rng = random.Random(0)
    kills, finished, phases, halves = 0, 0, set(), 0
    ways = moments(rng, rounds)
    folder = tmp_path / "0"
    folder.mkdir()
    while kills < len(ways) or not finished:
        child = Child(folder, root)
        if kills < len(ways):
            ways[kills](child)
        else:
            child.process.join()
        status = child.stop(signal.SIGKILL)
        assert status in (0, -signal.SIGKILL), child.text()
        if status == 0:
            assert json.loads(child.answer.read_text()) == whole
            finished += 1
            folder = tmp_path / str(finished)
            folder.mkdir()
            continue
        kills += 1
        halves += child.is_saving()
        if numbers := checkpoint_numbers(child.run):
            phases.add(
                load_meta(child.run / "checkpoints" / str(numbers[-1]))["run"]["phase"]
            )
    # The kills fell where they were meant to: in both phases, and amid a checkpoint.
    assert phases == {1, 2} and halves >= rounds


@pytest.mark.end_to_end
def test_a_notice_of_preemption_saves_and_says_how_to_go_on(root, whole, tmp_path):
    child = Child(tmp_path, root)
    child.wait_for(child.has_saved)
    assert child.stop(signal.SIGTERM) == 0
    last = child.text().splitlines()[-1]
    assert last.startswith(f"stopped by SIGTERM · saved in {child.run} after phase 1/2")
    assert last.endswith("run the same line again to resume")
    assert "Traceback" not in child.text() and not child.answer.exists()
    saved = checkpoint_numbers(child.run)[-1]
    assert 0 < saved < END

    again = Child(tmp_path, root)
    again.process.join()
    line = f"{child.run} resumes after phase"
    assert line in again.text().split("again to resume")[-1]
    assert json.loads(again.answer.read_text()) == whole


@pytest.mark.end_to_end
def test_a_run_with_an_average_that_is_killed_ends_bit_for_bit_the_same(root, tmp_path):
    model = runs.make_learner(root, verbose=False, ema_decay=0.9)
    history = model.fine_tune(runs.EPOCHS, 1e-2, freeze_epochs=runs.FREEZE_EPOCHS)
    whole = [runs.bits(model), runs.figures(history)]

    child = Child(tmp_path, root, 0.9)
    child.wait_for(child.has_passed_the_boundary)
    assert child.stop(signal.SIGKILL) == -signal.SIGKILL, child.text()
    assert BOUNDARY <= checkpoint_numbers(child.run)[-1] < END
    again = Child(tmp_path, root, 0.9)
    again.process.join()
    assert "resumes after phase" in again.text()
    assert json.loads(again.answer.read_text()) == whole

    # What opens is the network that the validation loss was measured with.
    best = find_checkpoint(child.run, "best")
    model.load(best)
    assert model.validate()["loss"] == load_meta(best)["valid_loss"]
    items = inspect_checkpoint(best).items
    held = {n for n in items["raw"] if n.startswith("params.")}
    assert (
        held <= {f"params.{n}" for n in items["params"]} and "updates" in items["raw"]
    )
    with pytest.raises(RunMismatchError, match="ema_decay: 0.9 in the folder, nothing"):
        fine_tune(root, child.run)


def test_a_kept_run_is_the_run_that_is_not_kept(root, whole, tmp_path, capsys):
    assert fine_tune(root, tmp_path / "run") == whole
    assert "goes on" not in capsys.readouterr().out
    kept = checkpoint_numbers(tmp_path / "run")
    assert kept[-1] == END and len(kept) <= 2
    best = load_meta(find_checkpoint(tmp_path / "run", "best"))
    losses = [row["valid_loss"] for row in whole[1]]
    assert best["valid_loss"] == min(losses)
    assert load_meta(find_checkpoint(tmp_path / "run"))["run"]["finished"]


def test_a_finished_run_says_so_and_gives_its_values(root, whole, tmp_path, capsys):
    fine_tune(root, tmp_path / "run")
    first = capsys.readouterr().out.splitlines()
    assert fine_tune(root, tmp_path / "run") == whole
    again = capsys.readouterr().out.splitlines()
    assert again[0].startswith(f"{tmp_path / 'run'} is finished (valid_loss ")
    # The same tables, to the last digit of the clock.
    assert again[1:] == first


def test_a_run_of_another_recipe_is_refused(root, tmp_path):
    run = tmp_path / "run"
    fine_tune(root, run)
    kept = checkpoint_numbers(run)
    with pytest.raises(RunMismatchError, match=r"phases.1.rates: \[0.001, 0.01\] in"):
        model = runs.make_learner(root, norms="train")
        model.fine_tune(3, 2e-2, freeze_epochs=2, run=run)
    with pytest.raises(RunMismatchError) as caught:
        fine_tune(root, run, lr_mult=10.0)
    assert "norms" not in str(caught.value)
    assert "phases.2.rates: [5e-05, 0.005] in the folder" in str(caught.value)
    with pytest.raises(RunMismatchError, match="seed: 0 in the folder, 1 now"):
        model = runs.make_learner(root, seed=1)
        model.fine_tune(2, 1e-2, freeze_epochs=2, run=run)
    assert checkpoint_numbers(run) == kept


def interrupt_after(model, steps: int, number=signal.SIGINT):
    """Makes a learner's process get a signal after so many of its training steps."""
    programs = model._trainer.programs
    original = programs.train_step
    done = []

    def train_step(*arguments, **options):
        step = original(*arguments, **options)

        def counted(*inputs):
            done.append(1)
            if len(done) == steps:
                os.kill(os.getpid(), number)
            return step(*inputs)

        return counted

    programs.train_step = train_step


@pytest.mark.parametrize("steps", [1, 12, 24, 25, 40])
def test_the_same_learner_goes_on_after_ctrl_c(root, whole, tmp_path, steps, capsys):
    model = runs.make_learner(root)
    interrupt_after(model, steps)
    options = {"freeze_epochs": 2, "run": tmp_path / "run", "save_every": 1e9}
    with pytest.raises(KeyboardInterrupt):
        model.fine_tune(2, 1e-2, **options)
    assert "stopped by SIGINT" in capsys.readouterr().out
    history = model.fine_tune(2, 1e-2, **options)
    assert [runs.bits(model), runs.figures(history)] == whole
    assert len(model.history) == len(history) == 4
    assert model.history.history["phase"] == [1, 1, 2, 2]


def test_a_network_with_random_streams_of_its_own_goes_on_too(root, tmp_path):
    def with_dropout(rngs: nnx.Rngs | None = None):
        network = runs.smallest_network()
        parts = {name: getattr(network, name) for name in network.names}
        noise = nnx.Dropout(0.5, rngs=nnx.Rngs(5))
        return Sequential({"conv1": parts["conv1"], "noise": noise, **parts})

    results = []
    for steps in (None, 3):
        data = runs.make_learner(root).data
        model = vision_learner(data, with_dropout, cut=3, hidden=(8,), verbose=False)
        if steps is not None:
            interrupt_after(model, steps)
            with pytest.raises(KeyboardInterrupt):
                model.fit(1, 1e-2, run=tmp_path / "run")
        history = model.fit(1, 1e-2, run=None if steps is None else tmp_path / "run")
        results.append(runs.figures(history))
    assert results[0] == results[1]


def test_a_run_stopped_while_validating_resumes_there(root, whole, tmp_path):
    model = runs.make_learner(root)
    programs = model._trainer.programs
    original = programs.eval_step
    done = []

    def eval_step(graphdef, **options):
        step = original(graphdef, **options)

        def counted(*inputs):
            done.append(1)
            if len(done) == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*inputs)

        counted.count, counted.compile = step.count, step.compile
        return counted

    programs.eval_step = eval_step
    run = tmp_path / "run"
    with pytest.raises(RunStopped):
        model.fine_tune(2, 1e-2, freeze_epochs=2, run=run)
    meta = load_meta(find_checkpoint(run))["run"]
    assert (meta["epoch"], meta["step"], len(meta["losses"])) == (1, 12, 12)
    assert fine_tune(root, run) == whole


def test_fits_and_one_cycles_are_runs_too(root, tmp_path):
    results = []
    for stop in (None, 5, 12):
        model = runs.make_learner(root, verbose=False)
        model.fit(1, 1e-2)
        for call in (model.fit, model.fit_one_cycle):
            run = None if stop is None else tmp_path / f"{call.__name__}-{stop}"
            if stop is not None:
                interrupt_after(model, stop)
                with pytest.raises(KeyboardInterrupt):
                    call(1, 1e-2, run=run)
            call(1, 1e-2, run=run)
        results.append([runs.bits(model), runs.figures(model.history)])
    assert results[0] == results[1] == results[2]
    assert [row["phase"] for row in results[0][1]] == [1, 2, 3]


def test_training_on_after_a_finished_run(root, tmp_path):
    """What is taken from a finished run includes the optimizer's moments."""
    results = []
    for _ in range(2):
        model = runs.make_learner(root, verbose=False)
        model.fine_tune(1, 1e-2, run=tmp_path / "run")
        assert model.frozen_groups == ()
        model.fit(1, 1e-3)
        results.append([runs.bits(model), runs.figures(model.history)])
    assert results[0] == results[1]


def test_a_damaged_checkpoint_is_not_resumed_from(root, whole, tmp_path):
    run = tmp_path / "run"
    fine_tune(root, run)
    latest = find_checkpoint(run)
    description = latest / "meta" / "data.json"
    description.write_text(description.read_text()[:-20])
    with pytest.raises(CheckpointDamagedError, match=f"Remove {latest}: the run then"):
        fine_tune(root, run)
    shutil.rmtree(latest)
    assert fine_tune(root, run) == whole


def test_where_a_run_stands_in_words(tmp_path):
    phases = fine_tune_phases(2, 12, 3)
    folder = RunFolder(tmp_path / "run", {}, made_with={**environment(), "jax": "0.1"})
    with Resume(folder, phases, {}, steps_per_epoch=12, name="pets") as resume:
        assert resume.opening_lines() == [] and not resume.finished
        run = resume.run
        run.step = 5
        assert resume.describe(run) == "phase 1/2, 5 of 12 batches of epoch 1 of 1"
        run.epoch, run.step = 1, 0
        assert resume.describe(run) == "phase 1/2, epoch 1 of 1"
        resume.checkpoint = tmp_path
        opening = resume.opening_lines()
        assert opening[0] == "pets resumes after phase 1/2, epoch 1 of 1"
        assert "it was started with jax 0.1 on 1 x cpu" in opening[1]
