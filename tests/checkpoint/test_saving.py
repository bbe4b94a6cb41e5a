import functools
import json
import math
import os
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from processes import run_script

from jaxtune.checkpoint import (
    atomic,
    inspect_checkpoint,
    load_checkpoint,
    load_meta,
    load_opt_state,
    save_checkpoint,
    save_checkpoint_async,
    saving,
    storage,
    write_json,
)

META = {
    "nothing": None, "yes": True, "one": 1, "float": 0.1, "large": 2**70,
    "small": 5e-324, "minus": -0.0, "inf": math.inf, "-inf": -math.inf,
    "text": "ä\n\"", "empty": [], "none": {}, "pair": [1, 1.0],
    "rows": [{"epoch": 0, "loss": 1.25, "best": None}, {"epoch": 1, "loss": 1e-300}],
    "deep": {"a": [[{"b": [True, None]}]]},
}  # fmt: skip


def save(path, **changes):
    trees = {"params": nnx.State({"w": jnp.ones(2)}), "model_state": nnx.State({})}
    return save_checkpoint(path, **{**trees, "meta": {}, **changes})


def test_a_description_comes_back_bit_for_bit(tmp_path):
    meta = load_meta(save(tmp_path / "run", meta=META))
    assert repr(meta) == repr(META)


def test_not_a_number_stays_one(tmp_path):
    meta = load_meta(save(tmp_path / "run", meta={"loss": [math.nan]}))
    assert math.isnan(meta["loss"][0])


def test_a_description_is_text_in_a_file(tmp_path):
    path = save(tmp_path / "run", meta=META)
    assert json.loads((path / "meta" / "data.json").read_text()) == META


def test_tuples_become_lists(tmp_path):
    assert load_meta(save(tmp_path / "run", meta={"a": (1, (2,))})) == {"a": [1, [2]]}


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"a": [np.float32(1)]}, r"meta\['a'\]\[0\] is a float32"),
        ({"a": {1: 2}}, r"meta\['a'\] has the key 1"),
        ({"a": object()}, r"meta\['a'\] is a object"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path, meta, message):
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "run", meta=meta)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"params": {"w": np.ones((0, 3))}},
            ValueError,
            r"params/w has shape \(0, 3\)",
        ),
        ({"params": {"w": "text"}}, TypeError, "params/w is a str"),
        (
            {"opt_state": {"w": jax.ShapeDtypeStruct((1,), jnp.float32)}},
            TypeError,
            "opt_state/w is a ShapeDtypeStruct",
        ),
        (
            {"params": {"a.b": np.ones(1), "a": {"b": np.ones(1)}}},
            ValueError,
            "both be called a.b",
        ),
    ],
)
def test_what_can_not_be_stored_is_refused(tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        save(tmp_path / "run", **changes)
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    path = save(tmp_path / "run", meta={"old": 1})
    for function in (save_checkpoint, save_checkpoint_async):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            function(path, params={"w": np.ones(1)}, model_state={}, meta={})
    assert load_meta(path) == {"old": 1}


def test_a_checkpoint_is_overwritten_when_asked_and_nothing_else_is(tmp_path):
    path = save(tmp_path / "run", meta={"old": 1}, overwrite=True)
    # What a killed process left beside it goes, too.
    (tmp_path / ".run.new").mkdir()
    (tmp_path / ".run.new.orbax-checkpoint-tmp").mkdir()
    (tmp_path / ".run.old").mkdir()
    save(path, meta={"new": 1}, overwrite=True)
    assert load_meta(path) == {"new": 1}
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "run"]

    (tmp_path / "file").write_text("mine")
    photos = tmp_path / "photos"
    (photos / "cats").mkdir(parents=True)
    run = tmp_path / "kept"
    run.mkdir()
    (run / "run.json").write_text("{}")
    for there, what in [("file", "a file"), ("photos", "not a checkpoint"),
                        ("kept", "the folder of a run")]:  # fmt: skip
        with pytest.raises(FileExistsError, match=what):
            save(tmp_path / there, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine" and (photos / "cats").is_dir()


def test_an_overwriting_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = save(tmp_path / "run", meta={"old": 1})

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(storage, "replace_folder", fails)
    with pytest.raises(OSError, match="disk full"):
        save(path, meta={"new": 1}, overwrite=True)
    assert load_meta(path) == {"old": 1}


@pytest.mark.parametrize("exchanges", [True, False])
def test_whole_at_every_moment(tmp_path, monkeypatch, exchanges):
    """A name is looked at after each call to the system that could change it."""
    path = save(tmp_path / "run", meta={"old": 1})
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    seen = []

    def watched(call, *arguments, **options):
        call(*arguments, **options)
        seen.append(load_meta(path) if path.exists() else None)

    for module, name in ((os, "rename"), (shutil, "rmtree")):
        watching = functools.partial(watched, getattr(module, name))
        names = {**vars(module), name: watching}
        monkeypatch.setattr(atomic, module.__name__, types.SimpleNamespace(**names))
    save(path, meta={"new": 1}, overwrite=True)
    assert seen[-1] == {"new": 1} and (None in seen) == (not exchanges)


def test_a_process_that_died_between_two_names_loses_nothing(tmp_path):
    path = save(tmp_path / "run", meta={"old": 1})
    path.rename(tmp_path / ".run.old")
    assert atomic.fresh_place(path) == tmp_path / ".run.new"
    assert load_meta(path) == {"old": 1}


def test_a_relative_path_is_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert save("here/run") == tmp_path / "here" / "run"
    assert load_meta("here/run") == {}


def test_names_with_dots_and_slashes_come_back(tmp_path):
    params = {"body.layer1": {"w/0": np.arange(3.0)}, "1": [np.ones(2), np.zeros(1)]}
    path = save(tmp_path / "run", params=params)
    again, _ = load_checkpoint(path, params=params, model_state={})
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_arrays_may_be_donated_right_after_the_call(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    # 16 MB: writing takes much longer than the steps that overwrite the arrays.
    state = {f"w{i}": jnp.full((1024, 256), float(i)) for i in range(16)}
    savings = []
    for round_ in range(4):
        savings.append(
            save_checkpoint_async(
                tmp_path / str(round_),
                params=state,
                model_state={},
                opt_state={"mu": state},
                meta={"round": round_},
            )
        )
        for _ in range(5):
            old, state = state, step(state)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    for round_, saving_ in enumerate(savings):
        path = saving_.result()
        assert path == tmp_path / str(round_) and saving_.done()
        params, _ = load_checkpoint(path, params=state, model_state={})
        moments = load_opt_state(path, {"mu": state})["mu"]
        for i in range(16):
            expected = np.full((1024, 256), i + 5.0 * round_, np.float32)
            np.testing.assert_array_equal(params[f"w{i}"], expected)
            np.testing.assert_array_equal(moments[f"w{i}"], expected)


def test_the_call_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    import threading

    go_on = threading.Event()
    write = saving.write

    def slow(*arguments, **options):
        assert go_on.wait(60)
        write(*arguments, **options)

    monkeypatch.setattr(saving, "write", slow)
    run = save_checkpoint_async(
        tmp_path / "run", params={"w": np.ones(1)}, model_state={}, meta={}
    )
    assert not run.done()
    assert not (tmp_path / "run").exists()
    go_on.set()
    assert load_meta(run.result()) == {}


def test_what_went_wrong_while_writing_is_raised(tmp_path):
    (tmp_path / "file").write_text("")
    run = save_checkpoint_async(
        tmp_path / "file" / "run", params={"w": np.ones(1)}, model_state={}, meta={}
    )
    with pytest.raises(OSError):
        run.result()
    assert run.done()


def test_what_a_killed_process_left_does_not_disturb(tmp_path):
    left = tmp_path / "run.orbax-checkpoint-tmp"
    (left / "params").mkdir(parents=True)
    (left / "params" / "junk").write_text("junk")
    path = save(tmp_path / "run", meta={"new": 1})
    assert load_meta(path) == {"new": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from orbax.checkpoint import v1 as ocp
from jaxtune.checkpoint import load_checkpoint, save_checkpoint, load_opt_state

root = sys.argv[1]
assert jax.device_count() == 4
mesh = jax.make_mesh((4,), ("data",))
values = jnp.arange(32.0).reshape(8, 4)
params = {
    "w": jax.device_put(values, NamedSharding(mesh, P())),
    "v": jax.device_put(values, NamedSharding(mesh, P("data"))),
}
trees = {"params": params, "model_state": {}, "opt_state": params}
save_checkpoint(root + "/four", **trees, meta={})
ocp.save(root + "/plain", params)
again, _ = load_checkpoint(root + "/one", params=params, model_state={})
moments = load_opt_state(root + "/one", params)
for tree in (again, moments):
    for name in params:
        np.testing.assert_array_equal(tree[name], values)
        jax.device_put(tree[name], params[name].sharding) + params[name]
"""


def test_another_number_of_devices(tmp_path):
    values = jnp.arange(32.0).reshape(8, 4)
    params = {"w": values, "v": values}
    save(tmp_path / "one", params=params, opt_state=params)
    run_script(DEVICES, tmp_path, devices=4)
    again, _ = load_checkpoint(tmp_path / "four", params=params, model_state={})
    moments = load_opt_state(tmp_path / "four", params)
    plain, _ = load_checkpoint(tmp_path / "plain", params=params, model_state={})
    for tree in (again, moments, plain):
        np.testing.assert_array_equal(tree["w"], values)
        np.testing.assert_array_equal(tree["v"], values)


def test_an_optimizer_state_of_every_make(tmp_path):
    params = {"body": {"w": jnp.ones((2, 3))}, "head": {"b": jnp.ones(2)}}
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_noise(0.1, 0.5, key=jax.random.key(0)),
        optax.multi_transform(
            {
                "a.b": optax.adamw(optax.linear_schedule(1.0, 0.0, 10)),
                "c": optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.bfloat16),
                "off": optax.set_to_zero(),
            },
            {"body": {"w": "a.b"}, "head": {"b": "c"}},
        ),
    )
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(params, state, params)
    path = save(tmp_path / "run", params=params, opt_state=state)
    assert (
        "2.inner_states.a.b.inner_state.0.mu.body.w"
        in (inspect_checkpoint(path).items["opt_state"])
    )
    again = load_opt_state(path, jax.eval_shape(tx.init, params))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for old, new in zip(*map(jax.tree.leaves, (state, again)), strict=True):
        assert old.dtype == new.dtype
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            old, new = jax.random.key_data(old), jax.random.key_data(new)
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()
    first, second = (tx.update(params, s, params) for s in (state, again))
    jax.tree.map(np.testing.assert_array_equal, first[0], second[0])


def test_a_file_of_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert [name for name in os.listdir(tmp_path) if name[0] != "."] == ["a.json"]
