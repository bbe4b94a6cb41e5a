"""The benchmarks run, small; what they measure is never asserted here."""

import ast
import collections
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from photos import make_photos, tiny_resnet
from processes import run_script

import jaxtune

FOLDER = Path(__file__).parents[1] / "benchmarks"
# Behind everything else: jaxtune itself is the installed one.
sys.path.append(str(FOLDER.parent))
IMPORTED = ["everywhere", "features", "gpu", "h100", "input", "measure", "recipes"]
IMPORTED += ["step", "tpu"]
everywhere, features, gpu, h100, input, measure, recipes, step, tpu = (
    importlib.import_module(f"benchmarks.{name}") for name in IMPORTED
)
SCRIPTS = ["accuracy", "checkpoint", "compile", "everywhere", "features", "fine_tune"]
SCRIPTS += ["gpu", "h100", "input", "recipes", "step", "tpu"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_says_what_it_measures_and_how_to_run_it(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert f"python -m benchmarks.{name}" in text
    assert "One line of JSON" in text or "one line of JSON" in text


def test_calls_take_turns_and_the_first_round_is_not_counted():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = measure.in_turn(calls, rounds=2, least=0.0)
    assert [len(found) for found in times.values()] == [2, 2]
    # Once to warm up; then, in each round, once to warm up and once for the clock.
    assert "".join(order) == "ab" + "aabb" * 2


def test_a_ratio_is_taken_within_each_round():
    figures = measure.ratio([1.0, 4.0, 3.0], [2.0, 4.0, 1.0])
    assert figures == {"ratio": 1.0, "spread": [0.5, 3.0]}
    assert measure.table(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"


@pytest.fixture
def tiny(monkeypatch):
    """An architecture of the scripts' `--arch` that compiles soon."""
    monkeypatch.setattr(jaxtune, "tiny_resnet", tiny_resnet, raising=False)
    return "tiny_resnet"


@pytest.mark.end_to_end
def test_the_gpu_script_runs_small_without_one(tmp_path, capsys):
    photos = make_photos(tmp_path, train=8)
    # Each case is a process of its own, which knows jaxtune's architectures only.
    rows = gpu.main(
        "--arch resnet18 --batch 4 --size 32 --precision float32 --rounds 2 --steps 1 "
        f"--side 64 --copy 1 --no-torch --data {photos}".split()
    )
    steps = [("predict", "jaxtune")]
    for case in ("frozen", "unfrozen", "unfrozen, running"):
        steps.append((case, "jaxtune"))
        if case == "frozen":
            steps.append((case, "jaxtune, with input"))
    assert [(row["case"], row["who"]) for row in rows] == steps
    assert all(row["images_per_second"] > 0 for row in rows)
    assert all(row["share_of_roofline"] > 0 for row in rows if row["who"] == "jaxtune")
    lines = capsys.readouterr().out.splitlines()
    first = json.loads(lines[0])
    assert first["case"] == "predict" and first["versions"]["jax"]
    assert lines[-7].startswith("| case | who |")


def test_a_case_whose_process_ends_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "none")
    with pytest.raises(RuntimeError, match="torch, frozen: ended with 1"):
        gpu.Worker(["--arch", "resnet18"], "torch", "frozen").wait()


@pytest.mark.end_to_end
def test_our_step_of_each_case_is_a_step(tiny):
    batch = step.arrays(2, 32)
    predict = step.ours(tiny, "inference", batch)
    assert predict().shape == (2, step.CLASSES)
    frozen = step.ours(tiny, "frozen", batch)
    assert frozen() > 0 and frozen() > 0


@pytest.mark.end_to_end
def test_stored_features_are_measured_beside_none(tiny, tmp_path, capsys):
    photos = make_photos(tmp_path, train=12, valid=4)
    rows = features.main(
        [str(photos), "--epochs", "3", "--rounds", "1", "--arch", tiny]
    )
    assert [row["draws"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["ratio"] == 1 and all(row["ratio"] > 0 for row in rows)
    assert all(0 <= row["errors"][0] <= 1 for row in rows)
    assert "| none kept |" in capsys.readouterr().out


def test_an_epoch_of_input_gives_the_last_batch(tmp_path):
    photos = make_photos(tmp_path, train=8)
    epoch, data = input.ours(photos, 32, 4, cached=True)
    assert epoch().shape[0] == 4
    assert data.train_loader.cached_bytes > 0
    uncached, data = input.ours(photos, 32, 4, cached=False)
    assert uncached().shape[0] == 4
    assert data.train_loader.cached_bytes == 0


def test_recipes_are_compared_on_the_same_photos_none_of_which_is_in_both():
    classes = {"a": [f"a{i}" for i in range(9)], "b": ["b0", "b1"]}
    train, valid = recipes.split(classes, 4, seed=1)
    assert {k: len(v) for k, v in train.items()} == {"a": 4, "b": 1}
    assert {k: len(v) for k, v in valid.items()} == {"a": 3, "b": 1}
    assert not set(train["a"]) & set(valid["a"]) and set(train["a"]) < set(classes["a"])
    assert recipes.split(classes, 4, seed=1) == (train, valid)
    assert recipes.split(classes, 4, seed=2) != (train, valid)


def test_ranks_are_shared_by_equal_errors():
    errors = {"x": [0.1, 0.3], "y": [0.2, 0.3], "z": [0.3, 0.1]}
    assert recipes.mean_ranks(errors) == {"x": 1.75, "y": 2.25, "z": 2.0}


def test_an_interval_holds_the_mean_and_is_the_same_each_time():
    low, high = recipes.interval([-0.1, 0.0, 0.1, 0.2])
    assert low < 0.05 < high and recipes.interval([-0.1, 0.0, 0.1, 0.2]) == (low, high)
    assert recipes.interval([0.25] * 5) == (0.25, 0.25)


def test_recipes_are_compared_in_pairs_where_all_have_run():
    def row(recipe, split, error, seconds):
        return {"data": "d", "train": 8, "recipe": recipe, "split": split} | {
            "error_rate": error, "seconds": seconds,
        }  # fmt: skip

    rows = [row("fastai", 0, 0.2, 10.0), row("default", 0, 0.1, 8.0)]
    rows.append(row("fastai", 1, 0.9, 10.0))
    *_, last, empty, count = recipes.compared(rows).splitlines()
    assert last == "| default | 0.100 | 1.00 | -0.100 (-0.100 to -0.100) | 0.80 |"
    assert count == "1 cases"


def test_collectives_are_read_from_a_compiled_program():
    """Lines as libtpu writes them; what only starts holds its operands too.

    The last one is a part of the first, in another fusion.
    """
    text = """
  %all-reduce.1 = (f32[16]{0:T(128)}, bf16[16,512]{1,0}) all-reduce(%a, %b), \
channel_id=1, metadata={op_name="jit(step)/jvp()/reduce_sum" stack_frame_id=3}
  %g = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%c), dimensions={0}
  %d = bf16[16,8]{1,0} all-gather-done(%g)
  %s = (pred[4]{0}, pred[4]{0}, u32[], u32[]) collective-permute-start(%e)
  ROOT %r = f32[] all-reduce-start(%f), to_apply=%add
  %add.2 = f32[16]{0} add(%all-reduce.1, %h)
  %all-reduce.3 = f32[8]{0} all-reduce(%i), channel_id=1, to_apply=%add
"""
    found = list(tpu.collectives(text))
    assert [(c.kind, c.arrays, c.num_bytes) for c in found] == [
        ("all-reduce", ("f32[16]", "bf16[16,512]"), 64 + 2 * 16 * 512),
        ("all-gather", ("bf16[16,8]",), 256),
        ("collective-permute", ("pred[4]",), 4),
        ("all-reduce", ("f32[]",), 4),
    ]
    assert [c.place for c in found] == ["jit(step)/jvp()/reduce_sum", "", "", ""]


def test_launches_and_bytes_are_read_from_a_compiled_gpu_program():
    """Lines as XLA's GPU compiler writes them; what a fusion holds is one launch."""
    text = """
%fused_convert (p: f32[8]) -> bf16[8] {
  ROOT %c = bf16[8]{0} convert(%p)
}

ENTRY %main (a: bf16[4,8], b: f32[8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %loop_fusion.1 = bf16[8]{0} fusion(%b), kind=kLoop, calls=%fused_convert
  %conv.1 = (bf16[4,8]{1,0}, u8[0]{0}) custom-call(%a, %loop_fusion.1), window={}, \
custom_call_target="__cudnn$convBiasActivationForward"
  %got = bf16[4,8]{1,0} get-tuple-element(%conv.1), index=0
  ROOT %conv.2 = (bf16[4,8]{1,0}, u8[2]{0}) custom-call(%got, %loop_fusion.1), \
custom_call_target="__cudnn$convForward"
}
"""
    fusion, fused, plain = 4 * 8 + 2 * 8, (64 + 16) + 64, (64 + 16) + 64 + 2
    found = h100.figures(text)
    assert (found["fused"], found["convolutions"], found["kernels"]) == (1, 1, 3)
    assert found["num_bytes"] == fusion + fused + plain


_FROZEN_ON_TPU = """
import json, sys
sys.path.append(sys.argv[1])
from benchmarks import tpu
import jaxtune
from runs import smallest_network

jaxtune.smallest_network = smallest_network
chips = tpu.devices("v5e:2x2")
frozen = tpu.programs("smallest_network", 16, "bfloat16")["frozen"]
made = tpu.compiled(frozen, chips, 2)
assert all(x.is_fully_replicated for x in made.output_shardings[1].values())
found = [c._asdict() for c in tpu.collectives(made.as_text())]
print(json.dumps([found, tpu.figures(made, tpu.CHIPS["v5e"])]))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the TPU's compiler, is not installed",
)
def test_frozen_on_a_tpu_the_heads_gradients_and_statistics_travel_and_nothing_else():
    out = run_script(_FROZEN_ON_TPU, FOLDER.parent)
    found, figures = json.loads(out.splitlines()[-1])
    assert {c["kind"] for c in found} == {"all-reduce"}
    features, hidden = 16, 512  # Maximum and mean of eight channels; fastai's layer.
    statistics = {f"f32[{features}]": 4, f"f32[{hidden}]": 4}  # There and back.
    gradients = {
        f"bf16[{features},{hidden}]": 1,
        f"bf16[{hidden},{step.CLASSES}]": 1,
    }
    assert collections.Counter(a for c in found for a in c["arrays"]) == (
        # The loss and the number of rows that it is of.
        statistics | gradients | {"f32[]": 2}
    )
    # Each batch norm's statistics depend on what is before it, so do their gradients.
    assert len(found) <= 5
    assert figures["collectives"]["all-reduce"]["count"] == len(found)
    assert 0 < figures["bandwidth_ms"] < 1 and figures["memory_gb"] < 0.1


_PEER = """
import sys
sys.path.append(sys.argv[1])
import numpy as np
from benchmarks import peers

net = peers.network("resnet18", 5)
images, labels = peers.batch(np.zeros((4, 32, 32, 3), np.float32), np.arange(4))
assert peers.train_step(net.train(), images, labels)() > 0
assert peers.predict_step(net, images)().shape == (4, 5)
print([type(layer).__name__ for layer in net[1]], sum(p.numel() for p in net[1][1:]
    .parameters()))
"""


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "torchvision")),
    reason="PyTorch and torchvision are not installed",
)
def test_the_peer_is_there_whichever_torchvision_is_beside_which_torch():
    done = subprocess.run(
        [sys.executable, "-c", _PEER, FOLDER.parent], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    layers = "ConcatPool BatchNorm1d Dropout Linear ReLU BatchNorm1d Dropout Linear"
    assert done.stdout.split("] ") == [
        str(layers.split())[:-1],
        f"{2 * 1024 + 1024 * 512 + 2 * 512 + 512 * 5}\n",
    ]


def test_what_is_farther_from_the_cpu_than_allowed_is_no_number_or_said():
    cpu = {"losses": [2.0, 1.0], "errors": [0.5]}
    found = {"losses": [2.1, 1.0], "errors": [0.25]}
    assert everywhere.distances(found, cpu) == pytest.approx((0.05, 0.25))
    with pytest.raises(everywhere.ItemError, match="nan"):
        everywhere.distances({"losses": [float("nan"), 1.0], "errors": [0.5]}, cpu)


def test_few_photos_are_of_every_class(tmp_path):
    source = make_photos(tmp_path / "all", train=5, valid=3)
    everywhere.few_photos(source, tmp_path / "few", train=7, valid=3)
    counts = {
        split: [
            len(list(f.iterdir())) for f in sorted((tmp_path / "few" / split).iterdir())
        ]
        for split in ("train", "valid")
    }
    assert counts == {"train": [3, 2, 2], "valid": [1, 1, 1]}


@pytest.fixture
def own_architectures(tmp_path, monkeypatch):
    """A folder of modules that the scripts' processes find too."""
    places = [tmp_path / "own", Path(__file__).parent / "support"]
    places[0].mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    return places[0]


@pytest.mark.slow
def test_one_command_says_whether_all_is_right_here(own_architectures, capsys):
    """The items of one network; another one aborts, which loses no item but its own."""
    (own_architectures / "aborts.py").write_text(
        "import os\ndef network(rngs=None):\n    os.abort()\n"
    )
    rows = everywhere.main(
        "--arch runs:smallest_network aborts:network --precision float32 --size 16 "
        "--batch 4 --steps 3 --valid 6 --no-tests".split()
    )
    found = {(row["arch"].partition(":")[2], row["item"]): row for row in rows}
    assert {key: row["right"] for key, row in found.items()} == {
        ("smallest_network", "fine_tune"): True,
        ("smallest_network", "frozen"): True,
        ("smallest_network", "twice"): True,
        ("smallest_network", "resumed"): True,
        ("network", "fine_tune"): False,
        ("network", "frozen"): False,
    }
    trained = found["smallest_network", "fine_tune"]
    assert trained["losses_off"] < 1e-3 and len(trained["losses"]) == 3 + 3 + 2
    aborted = found["network", "fine_tune"]
    assert aborted["why"].startswith("SIGABRT ended its process")
    twice, resumed = (found["smallest_network", item] for item in ("twice", "resumed"))
    assert twice["sha256"] == resumed["sha256"]
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0])["item"] == "fine_tune"
    assert lines[len(rows)].startswith("| item | network |")
    assert sum("WRONG" in line for line in lines) == 2


def test_the_command_ends_with_status_1_where_something_is_wrong(monkeypatch):
    wrong = [{"item": "twice", "right": True}, {"item": "tests", "right": False}]
    monkeypatch.setattr(everywhere, "main", lambda: wrong)
    assert everywhere.status() == 1
    monkeypatch.setattr(everywhere, "main", lambda: wrong[:1])
    assert everywhere.status() == 0
