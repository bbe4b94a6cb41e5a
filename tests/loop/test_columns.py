import functools

import pytest
import runs
from photos import make_photos

from jaxtune import EarlyStopping, ReduceLROnPlateau, SaveBest, accuracy, rmse
from jaxtune.loop.columns import check_monitor, more_is_better, table_columns


def f_of_my_own(logits, label, power=1):
    return logits[:, 0] ** power


def said(better):
    function = functools.partial(f_of_my_own, power=2)
    function.higher_is_better = better
    return function


@pytest.mark.parametrize(
    ("names", "better"),
    [
        (
            "accuracy top_5_accuracy balanced_accuracy acc f1 f1_score F1Score macro_f1"
            " RocAuc roc_auc_score average_precision recall cohen_kappa mean_iou r2",
            True,
        ),
        (
            "valid_loss train_loss error_rate mae rmse mean_squared_error log_loss"
            " hamming_loss dice_loss cross_entropy f1_error",
            False,
        ),
        (
            "hit_rate one_minus_accuracy neg_loss inaccuracy accuracy_gap vaccine"
            " images/s time score rate macro x not_accuracy loss_of_recall",
            None,
        ),
    ],
)
def test_what_a_name_says(names, better):
    for name in names.split():
        assert more_is_better(name, {}) is better, name


def test_what_a_metric_says_goes_before_its_name():
    assert more_is_better("accuracy", {"accuracy": said(False)}) is False
    assert more_is_better("hits", {"hits": functools.partial(said(True))}) is True
    assert more_is_better("hits", {"hits": f_of_my_own}) is None
    for metric, better in ((accuracy, True), (rmse, False)):
        assert more_is_better(metric.__name__, {metric.__name__: metric}) is better

    class OfScikitLearn:
        greater_is_better = True

    assert more_is_better("old_x", {"x": OfScikitLearn()}, ["old"]) is True
    assert more_is_better("old_valid_loss", {}, ["old"]) is False


@pytest.mark.parametrize(
    ("monitor", "hint"),
    [
        ("val_loss", "What Keras calls val_loss is valid_loss here."),
        ("val_accuracy", "What Keras calls val_accuracy is accuracy here."),
        ("acc", "What Keras calls acc is accuracy here."),
        ("val_acc", "What Keras calls val_acc is accuracy here."),
        ("loss", "What Keras calls loss is train_loss here."),
        ("acuracy", "Did you mean accuracy or old_accuracy?"),
        ("epoch", "images/s, time."),
        ("f1", "images/s, time."),
    ],
)
def test_a_column_that_will_not_be_there_is_refused_with_those_that_will(monitor, hint):
    columns = table_columns(["accuracy"], ["old"])
    with pytest.raises(ValueError, match="no such column") as caught:
        check_monitor(monitor, columns, "SaveBest")
    assert str(caught.value).endswith(hint)
    assert "train_loss, valid_loss, accuracy, old_valid_loss," in str(caught.value)
    for name in ("valid_loss", "old_accuracy", "time"):
        check_monitor(name, columns, "SaveBest")


def test_it_is_said_before_training_and_before_a_run_is_begun(tmp_path):
    root = make_photos(tmp_path / "photos", train=8, valid=4)
    model = runs.make_learner(root, verbose=False)
    model.metrics = f_of_my_own
    run = tmp_path / "run"
    for make in (
        functools.partial(SaveBest, tmp_path / "best"), EarlyStopping, ReduceLROnPlateau
    ):  # fmt: skip
        with pytest.raises(ValueError, match="monitors 'val_loss'"):
            model.fit(1, callbacks=make(monitor="val_loss"), run=run)
        with pytest.raises(ValueError, match='Write mode="max" or mode="min"'):
            model.fine_tune(1, callbacks=[make(monitor="f_of_my_own")], run=run)
    assert not model.history and model._trainer.phase == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]
    for mode in ("min", "max"):
        SaveBest("best", "f_of_my_own", mode=mode).mode = mode
    model.metrics = said(True)
    assert model.columns[4] == "f_of_my_own"
    best = SaveBest(tmp_path / "best", monitor="f_of_my_own")
    best.learner = model
    best.check()
