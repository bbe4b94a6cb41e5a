import csv
import dataclasses
import json
import os
import signal
import types

import pytest
import runs
from photos import make_photos

from jaxtune.checkpoint import load_meta
from jaxtune.learner import Row
from jaxtune.learner.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    JSONLogger,
    LambdaCallback,
    Monitor,
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
    assert len(model.history) == 1 and model._trainer._step == 13


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
        with pytest.raises(StopPhase, match="valid_loss has not become better"):
            callback.on_epoch_begin(len(losses))
    else:
        callback.on_epoch_begin(len(losses))


def test_more_is_better_for_accuracies():
    assert Monitor("accuracy").value(row(1.0, 0.25)) == 0.25
    assert Monitor("valid_loss").value(row(1.0)) == -1.0
    assert Monitor("valid_loss", mode="max").value(row(1.0)) == 1.0
    with pytest.raises(ValueError, match="no column 'f1' to monitor; the table has"):
        Monitor("f1").value(row(1.0))


def test_an_early_stopped_run_killed_and_taken_up_ends_the_same(root, tmp_path):
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


def test_epochs_without_the_column_are_not_compared(tmp_path):
    saved = []

    def save(path):
        path.mkdir()
        saved.append(path)

    rows = [row(1.0)]
    best = SaveBest(tmp_path / "best", monitor="old_valid_loss")
    best.learner = types.SimpleNamespace(history=rows, save=save)
    with pytest.raises(ValueError, match="no column 'old_valid_loss'"):
        best.on_epoch_end(0, {})
    rows.append(dataclasses.replace(row(1.0), metrics={"old_valid_loss": 2.0}))
    best.on_epoch_end(1, {})
    assert len(saved) == 1


def test_logs_have_every_phase(root, tmp_path):
    model = runs.make_learner(root, verbose=False)
    table, lines = tmp_path / "logs" / "a.csv", tmp_path / "a.jsonl"
    model.fine_tune(1, callbacks=[CSVLogger(table), JSONLogger(lines)])
    with table.open() as file:
        found = list(csv.DictReader(file))
    assert [r["phase"] for r in found] == ["1", "2"]
    assert float(found[1]["valid_loss"]) == model.history[-1].valid_loss
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert found == [r.as_dict() for r in model.history]


def test_what_is_no_callback_is_refused(root):
    model = runs.make_learner(root, verbose=False)
    with pytest.raises(TypeError, match="callbacks are instances of jaxtune.Callback"):
        model.fit(1, callbacks=[print])
    with pytest.raises(TypeError, match="no event 'on_batch'; there are"):
        LambdaCallback(on_batch=print)
    with pytest.raises(ValueError, match="patience is 1 or more"):
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
