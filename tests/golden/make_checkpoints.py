"""Writes `checkpoint_v2/`, `run_v2/` and `checkpoints_v2.json`, in format jaxtune/2.

    PYTHONPATH=../support python make_checkpoints.py

The run is stopped in its second phase. The JSON file has what a run that nobody stopped
ends with, and what the network of each folder predicts.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import runs
from photos import make_photos

from jaxtune import Callback, load_predictor

HERE = Path(__file__).parent
EMA_DECAY = 0.9
FINE_TUNE = {"epochs": 2, "base_lr": 1e-2, "freeze_epochs": 1, "save_every": 1e9}


def photos(folder: Path) -> Path:
    """Writes 24 photos to train on, 8 of each of three colours, and 21 to validate."""
    return make_photos(folder, train=8)


class Stop(Callback):
    """Sends the process Ctrl-C amid the run's last epoch."""

    def on_epoch_begin(self, epoch):
        self.epochs = getattr(self, "epochs", 0) + 1

    def on_train_batch_end(self, batch, logs):
        if (self.epochs, batch) == (3, 1):
            os.kill(os.getpid(), signal.SIGINT)


def probabilities(folder: Path, root: Path) -> np.ndarray:
    """Returns what the network of a checkpoint says of three photos, (3, 3)."""
    images = sorted((root / "valid").glob("*/000.png"))
    predictor = load_predictor(folder, module=runs.make_learner(root).model)
    return np.stack([each.probabilities for each in predictor.predict(images)])


def main() -> None:
    """Makes all three."""
    for name in ("checkpoint_v2", "run_v2"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        root = photos(Path(folder))
        whole = runs.make_learner(root, ema_decay=EMA_DECAY)
        table = runs.figures(whole.fine_tune(**FINE_TUNE))
        stopped = runs.make_learner(root, ema_decay=EMA_DECAY)
        with contextlib.suppress(KeyboardInterrupt):
            stopped.fine_tune(**FINE_TUNE, run=HERE / "run_v2", callbacks=[Stop()])
        (HERE / "run_v2" / ".lock").unlink(missing_ok=True)
        plain = runs.make_learner(root)
        plain.fine_tune(1, 1e-2)
        plain.save(HERE / "checkpoint_v2")
        expected = {
            "table": table,
            "checkpoint_v2": probabilities(HERE / "checkpoint_v2", root).tolist(),
            "run_v2": probabilities(HERE / "run_v2", root).tolist(),
        }
    for file in HERE.rglob("commit_success.txt"):
        # Orbax writes there where the checkpoint was made.
        file.write_text("Checkpoint commit was successful")
    (HERE / "checkpoints_v2.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
