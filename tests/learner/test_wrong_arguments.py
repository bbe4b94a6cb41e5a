"""Whatever is asked of results: a wrong argument is one sentence that names it."""

from pathlib import Path

import jax
import numpy as np
import pytest
from kinds import make_data, make_model

from jaxtune import GradCam, Predictor, load_predictor, plot_grad_cams
from jaxtune.learner import ClassificationInterpretation, Interpretation

pytest.importorskip("matplotlib")


class Anything:
    """Of no known type."""


#: A dozen wrong values, of which each argument takes some.
WRONG = {
    "none": None, "text": "nonsense", "bytes": b"", "nan": float("nan"), "half": 0.5,
    "negative": -1, "zero": 0, "large": 2**40, "true": True, "complex": 1j,
    "list": [], "listed": [None], "dict": {"x": 1}, "set": {1}, "object": Anything(),
    "class": Anything, "function": len, "array": np.zeros((2, 2, 2, 2, 2)),
}  # fmt: skip

#: For each call, its argument and those of the values above that it takes.
NUMBER = {"none", "half", "zero"}
FLAG = {"true"}
PHOTOS = {"list"}


@pytest.fixture(scope="module")
def models(root):
    return {kind: make_model(make_data(root, kind)) for kind in ("single", "multi")}


@pytest.fixture(scope="module")
def calls(models):
    single, multi = models["single"], models["multi"]
    photo = single.data.valid_items.paths[0]
    shown, several = single.interpret(), multi.interpret()
    predictor = multi.to_predictor()
    cam = single.grad_cam(photo)
    module, meta = single.model, single._meta()

    def threshold(value):
        multi.thresholds = value

    def predictors(value):
        predictor.thresholds = value

    return [
        ("item", PHOTOS, lambda x: single.predict(x)),
        ("item", PHOTOS, lambda x: predictor.predict(x)),
        ("on_error", (), lambda x: single.predict(photo, on_error=x)),
        ("on_error", (), lambda x: predictor.predict(photo, on_error=x)),
        ("loader", {"none", "zero"}, lambda x: single.get_preds(x)),
        ("with_loss", FLAG, lambda x: single.get_preds(with_loss=x)),
        ("with_decoded", FLAG, lambda x: single.get_preds(with_decoded=x)),
        ("thresh", NUMBER, lambda x: multi.get_preds(thresh=x)),
        ("thresh", {"none"}, lambda x: single.get_preds(thresh=x)),
        ("thresholds", NUMBER, threshold),
        ("thresholds", NUMBER, predictors),
        ("loader", {"none", "zero"}, lambda x: single.tta(x, n=1)),
        ("n", {"large"}, lambda x: single.tta(n=x)),
        ("beta", {"zero", "half"}, lambda x: single.tta(beta=x, n=1)),
        ("use_max", FLAG, lambda x: single.tta(use_max=x, n=1)),
        ("loader", {"none", "zero"}, lambda x: single.show_results(x)),
        ("max_n", {"large"}, lambda x: single.show_results(max_n=x)),
        ("seed", {"none", "zero"}, lambda x: single.show_results(seed=x)),
        ("columns", {"none", "large"}, lambda x: single.show_results(columns=x)),
        ("loader", {"none", "zero"}, lambda x: single.interpret(x)),
        ("loader", {"none", "zero"}, lambda x: single.validate(x)),
        ("thresh", NUMBER, lambda x: multi.interpret(thresh=x)),
        ("learner", (), lambda x: ClassificationInterpretation.from_learner(x)),
        ("predictions", (), lambda x: Interpretation(x, single.data.valid_items)),
        ("items", (), lambda x: Interpretation(shown.predictions, x)),
        ("k", {"none", "large"}, lambda x: shown.top_losses(x)),
        ("largest", FLAG, lambda x: shown.top_losses(largest=x)),
        ("items", FLAG, lambda x: shown.top_losses(items=x)),
        ("k", {"none", "large"}, lambda x: shown.plot_top_losses(x)),
        ("heatmap", FLAG, lambda x: shown.plot_top_losses(1, heatmap=x)),
        ("columns", {"none", "large"}, lambda x: shown.plot_top_losses(2, columns=x)),
        ("normalize", FLAG, lambda x: shown.plot_confusion_matrix(x)),
        ("title", {"text"}, lambda x: shown.plot_confusion_matrix(title=x)),
        ("min_val", {"zero", "large"}, lambda x: shown.most_confused(x)),
        ("thresh", {"half", "zero"}, lambda x: several.with_thresholds(x)),
        ("photo", PHOTOS, lambda x: single.grad_cam(x)),
        ("class_name", {"none"}, lambda x: single.grad_cam(photo, x)),
        ("layer", (), lambda x: single.grad_cam(photo, layer=x)),
        ("photos", PHOTOS, lambda x: single.explain(x)),
        ("class_index", {"none"}, lambda x: single.explain([photo], x)),
        ("before", {"none"}, lambda x: single.plot_kernels(x)),
        ("cams", (), lambda x: plot_grad_cams(x)),
        ("columns", {"large"}, lambda x: plot_grad_cams([cam], columns=x)),
        ("photos", (), lambda x: single.data.test_loader(x)),
        ("path", (), lambda x: load_predictor(x)),
        ("which", (), lambda x: load_predictor("run", which=x)),
        ("module", {"none"}, lambda x: load_predictor("run", module=x)),
        ("module", (), lambda x: Predictor(x, meta)),
        ("meta", (), lambda x: Predictor(module, x)),
        ("batch_size", {"large"}, lambda x: Predictor(module, meta, batch_size=x)),
    ]  # fmt: skip


def test_each_wrong_argument_is_named(calls, monkeypatch):
    # What a user sees, whom no type checker keeps from anything.
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    unnamed = []
    for name, fine, call in calls:
        for form, value in WRONG.items():
            if form in fine:
                continue
            try:
                call(value)
            except (TypeError, ValueError, FileNotFoundError) as error:
                text = str(error)
                named = name in text or form in ("text", "bytes", "listed", "array")
                if not named or len(text) > 500:
                    unnamed.append(f"{name}={form}: {text}")
            except Exception as error:
                unnamed.append(f"{name}={form}: {type(error).__name__}: {error}")
            else:
                unnamed.append(f"{name}={form}: taken")
    assert not unnamed, "\n".join(unnamed)


def test_the_numbers_of_numpy_and_jax_are_numbers(models):
    single, multi = models["single"], models["multi"]
    assert len(single.show_results(max_n=np.int64(2), columns=np.int32(1)).axes) == 2
    shown = single.interpret()
    assert len(shown.top_losses(jax.numpy.asarray(3))[0]) == 3
    np.testing.assert_array_equal(
        multi.get_preds(with_decoded=True, thresh=np.float32(0.25))[2],
        multi.get_preds(with_decoded=True, thresh=[0.25, np.float64(0.25)])[2],
    )
    assert isinstance(single.grad_cam(Path(single.data.valid_items.paths[0])), GradCam)
