"""The training loop: phases, epochs, batches.

Everything that is not training (callbacks, the table, checkpoints, going back after
NaN, compiling the next phase ahead) happens in `FitEvents`, which the loop calls and
which changes none of its numbers.
"""

from collections.abc import Iterator, Sequence

import jax

from jaxtune.loop.events import FitEvents
from jaxtune.loop.extra_validation import extra_figures
from jaxtune.loop.history import Row
from jaxtune.loop.phase_checks import check_phases
from jaxtune.loop.run_state import StepTimer
from jaxtune.loop.trainer import Trainer
from jaxtune.train import Phase, averaged

#: One program; by itself it is two.
fold_in = jax.jit(jax.random.fold_in)


def fit(
    trainer: Trainer,
    data,
    phases: Sequence[Phase],
    *,
    first_epoch: int,
    key: jax.Array,
    events: FitEvents | None = None,
) -> Iterator[Row]:
    """Trains phases one after the other; yields a row of the table after each epoch.

    Args:
        trainer: The network, its layer groups and its compiled steps; it holds the
            trained weights when a phase has ended, whatever ended it.
        data: Has `train_loader` and `valid_loader`.
        phases: What trains, for how long, at which rates.
        first_epoch: Number of epochs trained before this call. The epoch's number
            decides the order of photos and the random augmentation.
        key: Of the whole call; each epoch folds its number in.
        events: What else happens, see `FitEvents`; nothing is shown or saved if None.
            A run that is resumed begins where `events.run` stands: epochs that are done
            are shown and yielded, not trained again.

    Raises:
        ValueError: If a phase has too few batches for one update, or a batch has too
            few rows for a batch norm.
        NonFiniteLossError: If a loss, a gradient or the network's outputs are NaN or
            infinite. The trainer holds the newest good weights then.
        OutOfMemoryError: If a step does not fit into the device's memory; the trainer
            holds the weights of the newest whole epoch then.
        RunStopped: If SIGTERM was sent; the run is saved then.
        KeyboardInterrupt: Likewise, with Ctrl-C.
    """
    check_phases(trainer, data, phases)
    events = FitEvents(verbose=False) if events is None else events
    run = events.run
    events.begin_training(trainer, data, phases, key)
    for number in range(1, len(phases) + 1):
        if events.ended_before(number):
            break
        with events.phase(number) as (phase, train_step):
            yield from run.rows_of(trainer.phase)
            began = first_epoch + run.epochs_before
            train_loader, loaders, evaluate = trainer.inputs(data, phase, began, key)
            steps = len(train_loader) + sum(map(len, loaders.values()))
            while run.epoch < phase.epochs and not run.finished:
                events.begin_epoch(phase, steps)
                epoch = first_epoch + len(run.rows)
                epoch_key = fold_in(key, epoch)
                timer = StepTimer(run)
                for batch in timer.batches(train_loader.batches(epoch, run.step)):
                    batch = trainer.place(batch)
                    run.state, metrics = train_step(run.state, batch, epoch_key)
                    run.add_step(metrics["loss"], metrics["count"])
                    events.after_train_step(metrics)
                train_loss, images_per_second = events.end_of_batches(timer)
                figures, weights = {}, trainer.whole(averaged(run.state))
                for name, loader in loaders.items():
                    measured = evaluate(loader, weights, events.after_eval_step)
                    figures |= extra_figures(name, measured)
                row = Row(
                    phase=trainer.phase,
                    epoch=run.epoch + 1,
                    train_loss=train_loss,
                    valid_loss=figures.pop("loss"),
                    metrics=figures,
                    images_per_second=images_per_second,
                    seconds=run.elapsed,
                )
                run.add_epoch(row)
                events.end_epoch(row)
                yield row
                events.after_epoch(row)
    events.end_training()
