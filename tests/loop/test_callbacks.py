import csv
import dataclasses
import json
import os
import shutil
import signal
import types

import numpy as np
import pytest
import runs
from photos import make_photos

from jaxtune import accuracy, error_rate, group_states
from jaxtune.checkpoint import load_meta, save_checkpoint
from jaxtune.learner import Row
from jaxtune.loop.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    JSONLogger,
    LambdaCallback,
    Monitor,
    ReduceLROnPlateau,
    SaveBest,
    StopPhase,
    StopTraining,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


def row(loss, accuracy=0.5, epoch=1, phase=1):
    return Row(
        phase=phase, epoch=epoch, train_loss=0.1, valid_loss=loss,
        metrics={"accuracy": accuracy}, images_per_second=3.0, seconds=4.0,
    )  # fmt: skip


class Diary(Callback):
    """Writes down what it hears."""

    def __init__(self):
        self.pages = []

    def on_train_begin(self):
        self.pages.append("train begin")

    def on_phase_begin(self, phase):
        self.pages.append(f"phase {phase} begin, frozen {','.join(self.frozen)}")

    def on_epoch_begin(self, epoch):
        self.pages.append(f"epoch {epoch} begin after {len(self.rows)}")

    def on_train_batch_end(self, batch, logs):
        assert sorted(logs) == ["count", "finite", "grad_norm", "loss"]
        self.pages.append(batch)

    def on_epoch_end(self, epoch, logs):
        assert self.learner.history[-1].as_dict() == logs
        self.pages.append(f"epoch {epoch} end")

    def on_phase_end(self, phase):
        self.pages.append(f"phase {phase} end")

    def on_train_end(self):
        self.pages.append("train end")


def test_every_event_is_told_in_order(root):
    diary = Diary()
    model = runs.make_learner(root, verbose=False)
    model.fine_tune(1, 1e-2, freeze_epochs=2, callbacks=diary)
    batches = list(range(12))
    assert diary.pages == [
        "train begin",
        "phase 1 begin, frozen body",
        *("epoch 0 begin after 0", *batches, "epoch 0 end"),
        *("epoch 1 begin after 1", *batches, "epoch 1 end"),
        "phase 1 end",
        "phase 2 begin, frozen ",
        *("epoch 0 begin after 0", *batches, "epoch 0 end"),
        "phase 2 end",
        "train end",
    ]


def test_listening_changes_no_number(root):
    results = []
    for callbacks in (None, [Diary(), LambdaCallback(on_epoch_end=lambda e, logs: 0)]):
        model = runs.make_learner(root, verbose=False)
        model.fit(1, 1e-2, callbacks=callbacks)
        results.append(runs.bits(model))
    assert results[0] == results[1]


def stop_at(event, request):
    def stop(*arguments):
        raise request("enough")

    return LambdaCallback(**{event: stop})


def test_a_phase_or_everything_ends_when_asked(root, capsys):
    model = runs.make_learner(root)
    model.fine_tune(
        2, 1e-2, freeze_epochs=2, callbacks=stop_at("on_epoch_end", StopPhase)
    )
    assert model.history.history["phase"] == [1, 2]
    out = capsys.readouterr().out
    assert "phase 1 ends early: enough" in out and "training ends early: enough" in out
    model = runs.make_learner(root)
    stop = stop_at("on_epoch_end", StopTraining)
    model.fine_tune(2, 1e-2, freeze_epochs=2, callbacks=stop)
    assert model.history.history["phase"] == [1]
    model.fit(1, callbacks=stop_at("on_train_batch_end", StopTraining))
    assert len(model.history) == 1 and model._trainer.step == 13


def test_early_stopping_judges_each_phase_by_itself(root):
    model = runs.make_learner(root, verbose=False)
    # Nothing is ever so much better.
    model.fit(5, 0.0, callbacks=EarlyStopping(patience=2, min_delta=100.0))
    assert len(model.history) == 3
    model.fit(5, 0.0, callbacks=EarlyStopping(patience=1, min_delta=100.0))
    assert len(model.history) == 5


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "stops"),
    [
        ([1.0], 1, 0.0, False),
        ([1.0, 0.9], 1, 0.0, False),
        ([1.0, 1.0], 1, 0.0, True),
        ([1.0, 1.1, 0.9], 2, 0.0, False),
        ([1.0, 1.1, 1.2], 2, 0.0, True),
        ([1.0, 0.95], 1, 0.1, True),
        ([float("nan"), 1.0], 1, 0.0, False),
        ([float("nan"), float("nan")], 2, 0.0, True),
    ],
)
def test_when_early_stopping_stops(losses, patience, min_delta, stops):
    callback = EarlyStopping(patience=patience, min_delta=min_delta)
    callback.rows = [row(loss) for loss in losses]
    if stops:
        with pytest.raises(StopPhase, match="valid_loss has not improved"):
            callback.on_epoch_begin(len(losses))
    else:
        callback.on_epoch_begin(len(losses))


def test_more_is_better_for_accuracies():
    assert Monitor("accuracy").value(row(1.0, 0.25)) == 0.25
    assert Monitor("valid_loss").value(row(1.0)) == -1.0
    assert Monitor("valid_loss", mode="max").value(row(1.0)) == 1.0
    with pytest.raises(ValueError, match="no column 'f1' to monitor; the table has"):
        Monitor("f1").value(row(1.0))


def test_an_early_stopped_run_killed_and_resumed_ends_the_same(root, tmp_path):
    results = []
    for number, run in enumerate((None, tmp_path / "run")):
        model = runs.make_learner(root, verbose=False)
        stopping = EarlyStopping(patience=1, min_delta=100.0)
        callbacks = [stopping, CSVLogger(tmp_path / f"{number}.csv")]
        if run is not None:
            interrupt = LambdaCallback(
                on_train_batch_end=lambda batch, logs: (
                    os.kill(os.getpid(), signal.SIGINT) if batch == 7 else None
                )
            )
            for _ in range(2):
                model = runs.make_learner(root, verbose=False)
                with pytest.raises(KeyboardInterrupt):
                    again = [*callbacks, interrupt]
                    model.fit(5, 0.0, run=run, save_every=0, callbacks=again)
            model = runs.make_learner(root, verbose=False)
            with pytest.raises(ValueError, match="callbacks: "):
                model.fit(5, 0.0, run=run)
            callbacks.append(LambdaCallback())
        model.fit(5, 0.0, run=run, save_every=0, callbacks=callbacks)
        results.append([runs.bits(model), runs.figures(model.history)])
    assert results[0] == results[1] and len(results[0][1]) == 2
    # Run again, it is finished, though not all of its epochs were trained.
    model = runs.make_learner(root, verbose=False)
    model.fit(5, 0.0, run=run, save_every=0, callbacks=callbacks)
    assert [runs.bits(model), runs.figures(model.history)] == results[0]


def test_the_best_of_all_phases_is_kept_and_given_back(root, tmp_path):
    model = runs.make_learner(root, verbose=False)
    seen = {}
    note = LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.update(
            {logs["valid_loss"]: runs.bits(model)}
        )
    )
    path = tmp_path / "best"
    best = SaveBest(path, restore=True)
    model.fit(2, 1e-2, callbacks=[note, best])
    # The rate of the second phase spoils it.
    model.fit(2, 3.0, callbacks=[note, best])
    assert len(seen) == 4 and runs.bits(model) == seen[min(seen)]
    assert load_meta(path)["classes"] == ["blue", "green", "red"]
    assert os.listdir(tmp_path) == ["best"]


def quiet(root):
    return runs.make_learner(root, verbose=False)


def test_best_over_any_sequence_of_fits(root, tmp_path):
    """Each fit that spoils the network ends with the best that its path has seen."""
    model, path = quiet(root), tmp_path / "best"
    best = SaveBest(path, restore=True)
    model.fit(1, 1e-2, callbacks=best)
    first = runs.bits(model)
    for again in (best, SaveBest(path, restore=True)):
        model.fit(1, 100.0, callbacks=again)
        assert runs.bits(model) == first
    # Another path, or one whose folder is gone, has not seen those epochs.
    for other in (SaveBest(tmp_path / "other", restore=True), best):
        shutil.rmtree(path, ignore_errors=True)
        model.fit(1, 1.0, callbacks=other)
        assert load_meta(other.path)["best"]["phase"] == model.history[-1].phase
    # What another training left there is no measure.
    assert load_meta(path)["best"]["valid_loss"] > 0
    another = quiet(root)
    another.fit(1, 1e-3, callbacks=best)
    assert load_meta(path)["best"]["valid_loss"] == another.history[0].valid_loss
    assert sorted(os.listdir(tmp_path)) == ["best", "other"]


def nothing(logits, label):
    return logits[:, 0] * float("nan")


def test_where_there_is_no_best_the_last_is_kept_and_said(root, tmp_path):
    model = quiet(root)
    model.metrics = nothing
    best = SaveBest(tmp_path / "best", "nothing", mode="min", restore=True)
    with pytest.warns(UserWarning, match="nothing to restore from .*best: nothing was"):
        model.fit(1, 1e-2, callbacks=best)
    assert not (tmp_path / "best").exists() and len(model.history) == 1


def test_a_folder_that_is_no_checkpoint_is_refused_before_training(root, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_text("mine")
    model = quiet(root)
    with pytest.raises(FileExistsError, match="not a checkpoint"):
        model.fit(1, callbacks=SaveBest(tmp_path / "photos"))
    with pytest.raises(NotADirectoryError, match=r"mine.png is a file"):
        model.fit(1, callbacks=SaveBest(tmp_path / "photos" / "mine.png" / "best"))
    with pytest.raises(IsADirectoryError, match="CSVLogger writes a file"):
        model.fit(1, callbacks=CSVLogger(tmp_path / "photos"))
    assert not model.history


def test_an_epoch_whose_end_a_killed_process_did_not_tell_is_saved(root, tmp_path):
    """The run's checkpoint was whole, and the process died before `SaveBest` heard."""
    run, path, seen = tmp_path / "run", tmp_path / "best", []
    for number in range(2):
        model, best = quiet(root), SaveBest(path)
        if number == 0:
            best.on_epoch_end = lambda epoch, logs: (_ for _ in ()).throw(OSError())
            with pytest.raises(OSError):
                model.fit(2, 1e-2, run=run, callbacks=best)
            assert not path.exists()
        else:
            note = LambdaCallback(
                on_epoch_begin=lambda epoch: seen.append(load_meta(path)["best"])
            )
            model.fit(2, 1e-2, run=run, callbacks=[best, note])
            assert seen[0]["epoch"] == 1 and len(model.history) == 2


def test_epochs_without_the_column_are_not_compared(tmp_path):
    saved = []

    def save(path, *, overwrite, note):
        save_checkpoint(
            path, params={"w": np.ones(1)}, model_state={}, meta=note, overwrite=True
        )
        saved.append(note["best"]["old_valid_loss"])

    rows = [row(1.0)]
    best = SaveBest(tmp_path / "best", monitor="old_valid_loss")
    best.learner = types.SimpleNamespace(history=rows, _save=save)
    with pytest.raises(ValueError, match="no column 'old_valid_loss'"):
        best.on_epoch_end(0, {})
    rows.append(dataclasses.replace(row(1.0), metrics={"old_valid_loss": 2.0}))
    best.on_epoch_end(1, {})
    rows.append(dataclasses.replace(rows[-1], metrics={"old_valid_loss": 3.0}))
    best.on_epoch_end(2, {})
    rows.append(dataclasses.replace(rows[-1], metrics={"old_valid_loss": 1.0}))
    best.on_epoch_end(3, {})
    assert saved == [2.0, 1.0]


@pytest.mark.parametrize(
    ("losses", "options", "reductions"),
    [
        ([1.0], {}, 0),
        ([1.0, 1.0], {}, 1),
        ([1.0, 1.0, 1.0], {}, 2),
        ([1.0, 1.0, 1.0], {"patience": 2}, 1),
        ([1.0, 1.1, 0.9, 1.0, 1.0], {"patience": 2}, 1),
        ([1.0, 1.0, 1.0], {"cooldown": 2}, 1),
        ([1.0, 1.0, 1.0, 1.0, 1.0], {"cooldown": 2}, 2),
        ([1.0, 0.95, 0.9], {"min_delta": 0.1}, 2),
        ([float("nan"), 1.0], {}, 1),
    ],
)
def test_how_often_rates_are_lowered(losses, options, reductions):
    callback = ReduceLROnPlateau(**options)
    assert callback._reductions([row(loss) for loss in losses]) == reductions


def test_rates_are_lowered_in_every_group_along_the_schedule(root, capsys):
    model = runs.make_learner(root)
    model.unfreeze()
    callback = ReduceLROnPlateau(factor=0.5, min_delta=100.0, min_lr=3e-4)
    seen = []

    def look(batch, logs):
        if batch == 11:
            states = group_states(model._trainer.running.state.opt_state)
            seen.append([float(states[name].rate) for name in ("body", "head")])

    watch = LambdaCallback(on_train_batch_end=look)
    model.fit_one_cycle(4, slice(1e-4, 1e-3), callbacks=[callback, watch])
    # A group that was below min_lr from the beginning stays as it is.
    expected = [[1e-4, 1e-3], [1e-4, 1e-3], [1e-4, 5e-4], [1e-4, 3e-4]]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    assert "body 0.0001, head 0.0005 from epoch 3 on" in capsys.readouterr().out
    shown = model.history.phases[1].learning_rates()["head"]
    schedule = model.history.phases[1].phase.schedule
    multiple = np.asarray([schedule(step)[0] for step in range(48)])
    peaks = np.repeat([1e-3, 1e-3, 5e-4, 3e-4], 12)
    np.testing.assert_allclose(shown, multiple * peaks, rtol=1e-5)
    # Nothing was compiled for it; the next fit begins with its own rates.
    assert model.num_programs == 2
    model.verbose = False
    model.fit(1, 1e-3, callbacks=[callback, watch])
    assert seen[-1] == pytest.approx([1e-3, 1e-3])
    with pytest.raises(RuntimeError, match=r"fit\(1, lr="):
        model.set_rates({"body": 1.0, "head": 1.0})


def test_a_run_with_lowered_rates_that_was_stopped_ends_the_same(root, tmp_path):
    results = []
    for stop_at in (None, 3, 16, 24):
        run = None if stop_at is None else tmp_path / str(stop_at)
        steps = []

        def interrupt(batch, logs, stop_at=stop_at, steps=steps):
            steps.append(batch)
            if len(steps) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)

        lower = ReduceLROnPlateau(factor=0.5, min_delta=100.0)
        callbacks = [lower, LambdaCallback(on_train_batch_end=interrupt)]
        if stop_at is not None:
            with pytest.raises(KeyboardInterrupt):
                quiet(root).fit(3, 1e-2, run=run, callbacks=callbacks)
        model = quiet(root)
        model.fit(3, 1e-2, run=run, callbacks=callbacks)
        rates = model.history.phases[1].learning_rates()["head"].tolist()
        results.append([runs.bits(model), runs.figures(model.history), rates])
    assert all(result == results[0] for result in results)
    # Taken up at its end, it shows the same.
    model = quiet(root)
    model.fit(3, 1e-2, run=run, callbacks=lower)
    assert model.history.phases[1].learning_rates()["head"].tolist() == rates
    with pytest.raises(ValueError, match="callbacks: .*ReduceLROnPlateau"):
        quiet(root).fit(3, 1e-2, run=run)


def test_who_only_looks_on_is_no_part_of_a_run(root, tmp_path, capsys):
    """Loggers, metrics and what is shown may change; what changes numbers may not."""
    run = tmp_path / "run"
    model = quiet(root)
    model.fit(1, 1e-2, run=run, callbacks=Diary())
    bits = runs.bits(model)

    class Stopper(Callback):
        affects_training = True

    again = runs.make_learner(root)
    again.metrics = [error_rate, accuracy]
    logger = CSVLogger(tmp_path / "a.csv")
    for callbacks in (None, [logger, SaveBest(tmp_path / "best")], [LambdaCallback()]):
        again.fit(1, 1e-2, run=run, callbacks=callbacks, save_every=3.0)
        assert runs.bits(again) == bits
        again = quiet(root)
    assert "accuracy" in capsys.readouterr().out
    for callback, name in (
        (SaveBest(tmp_path / "best", restore=True), "SaveBest"),
        (EarlyStopping(), "EarlyStopping"), (Stopper(), "Stopper"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"callbacks: .*{name}"):
            quiet(root).fit(1, 1e-2, run=run, callbacks=callback)

    # A run that was begun when every callback was in its recipe.
    file = run / "run.json"
    held = json.loads(file.read_text())
    del held["recipe"]["format"]
    held["recipe"] |= {
        "metrics": ["jaxtune.train.metrics.error_rate"],
        "callbacks": ["CSVLogger", "Diary", "SaveBest(monitor='valid_loss', "
                      "mode='auto', path='/old/best', restore=True)"],
    }  # fmt: skip
    file.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="callbacks: "):
        quiet(root).fit(1, 1e-2, run=run)
    held["recipe"]["callbacks"].pop()
    file.write_text(json.dumps(held))
    model = quiet(root)
    model.fit(1, 1e-2, run=run, callbacks=logger)
    assert runs.bits(model) == bits


def test_logs_have_every_phase(root, tmp_path):
    model = runs.make_learner(root, verbose=False)
    table, lines = tmp_path / "logs" / "a.csv", tmp_path / "a.jsonl"
    model.fine_tune(1, freeze_epochs=1, callbacks=[CSVLogger(table), JSONLogger(lines)])
    with table.open() as file:
        found = list(csv.DictReader(file))
    assert [r["phase"] for r in found] == ["1", "2"]
    assert float(found[1]["valid_loss"]) == model.history[-1].valid_loss
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert found == [r.as_dict() for r in model.history]


def test_what_is_no_callback_is_refused(root):
    model = runs.make_learner(root, verbose=False)

    class NoBase:
        on_epoch_end = print

    for wrong, hint in (
        ([print], "LambdaCallback"), (print, "LambdaCallback"),
        (SaveBest, r"SaveBest\(...\) with brackets"), ([SaveBest], "with brackets"),
        (NoBase(), "Callback as its base"), ([NoBase()], "Callback as its base"),
        ([None], "received None"), (3, "received 3"), ("best", "received 'best'"),
        ({"a": EarlyStopping()}, "received a dict"), ([[EarlyStopping()]], "a list"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"instances of jaxtune.Callback.*{hint}"):
            model.fit(1, callbacks=wrong)
    for make, kind in (
        (lambda: SaveBest(3), TypeError), (lambda: SaveBest(""), ValueError),
        (lambda: SaveBest("a", restore="no"), TypeError),
        (lambda: SaveBest("a", monitor=accuracy), TypeError),
        (lambda: EarlyStopping(patience=1.5), TypeError),
        (lambda: EarlyStopping(min_delta=-1), ValueError),
        (lambda: ReduceLROnPlateau(factor=10), ValueError),
        (lambda: ReduceLROnPlateau(factor=0), ValueError),
        (lambda: ReduceLROnPlateau(cooldown=-1), ValueError),
        (lambda: ReduceLROnPlateau(min_lr="0"), TypeError),
        (lambda: LambdaCallback(on_epoch_end=3), TypeError),
        (lambda: JSONLogger(None), TypeError),
    ):  # fmt: skip
        with pytest.raises(kind):
            make()
    with pytest.raises(TypeError, match="no event 'on_batch'; there are"):
        LambdaCallback(on_batch=print)
    with pytest.raises(ValueError, match="patience must be a whole number of at"):
        EarlyStopping(patience=0)
    with pytest.raises(ValueError, match='mode is "auto", "min" or "max"'):
        Monitor(mode="more")


def test_callbacks_in_words_are_the_same_in_every_process(tmp_path):
    many = CallbackList([EarlyStopping(), CSVLogger("a"), Diary()], None)
    assert many.describe()[:2] == [
        "EarlyStopping(monitor='valid_loss', mode='auto', patience=1, min_delta=0.0)",
        "CSVLogger",
    ]
    assert "0x" not in many.describe()[2]
    # Where it saves doesn't decide what a training comes to; that it restores does.
    decide = [SaveBest("a"), SaveBest("b", restore=True), *many.callbacks]
    assert CallbackList(decide, None).recipe() == [
        "SaveBest(monitor='valid_loss', mode='auto', restore=True)",
        many.describe()[0],
    ]
