"""A network and its checkpoints, in plain Flax, optax and Orbax: no jaxtune anywhere.

`python plain_flax.py FOLDER` writes checkpoints in the ways people write them.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Body(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bn1 = nnx.BatchNorm(4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])


class Network(nnx.Module):
    def __init__(self, *, classes=2, seed=0):
        rngs = nnx.Rngs(seed)
        self.body = Body(rngs)
        self.head = nnx.Linear(4, classes, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        # No statistic is what it is at the beginning of another network.
        self.body.bn1.mean[...] = jnp.arange(4.0) + seed


def write_all(root):
    from orbax import checkpoint as v0
    from orbax.checkpoint import v1

    root.mkdir()
    network = Network()
    params, stats, random = nnx.split_state(
        nnx.state(network), nnx.Param, nnx.BatchStat, ...
    )
    both = nnx.state(network, (nnx.Param, nnx.BatchStat))
    flat = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(both))
    np.savez(
        root / "values.npz",
        **{".".join(str(key.key) for key in path): leaf for path, leaf in flat},
    )
    pure, pure_stats = nnx.as_pure(params), nnx.as_pure(stats)
    opt_state = optax.adam(1e-3).init(pure)
    train = {
        "state": {
            "params": pure,
            "batch_stats": pure_stats,
            "opt_state": opt_state,
            "step": 3,
        }
    }
    trees = {
        "state": nnx.state(network),
        "pure_dict": nnx.to_pure_dict(both),
        "split": {"params": params, "stats": stats, "rest": random},
        "tuple": (params, stats),
        "train": train,
        "optimizer": {
            "model": nnx.as_pure(both),
            "opt_state": opt_state,
            "step": jnp.int32(3),
            "note": "hello",
            "rate": 0.1,
            "none": None,
        },
        "half": jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.as_pure(both)),
        "whole_numbers": jax.tree.map(lambda x: x.astype(jnp.int32), nnx.as_pure(both)),
        "body_alone": {"backbone": nnx.as_pure(nnx.state(network.body))},
        "twice": {"params": pure, "ema": pure, "stats": pure_stats},
        "moments_alone": {"opt_state": opt_state, "stats": pure_stats},
    }
    for name, tree in trees.items():
        v1.save(root / f"v1_{name}", tree)
    with v0.StandardCheckpointer() as checkpointer:
        for name in ("state", "pure_dict", "split", "train", "body_alone"):
            checkpointer.save(root / f"v0_standard_{name}", trees[name])
    with v0.PyTreeCheckpointer() as checkpointer:
        for name in ("state", "tuple", "optimizer"):
            checkpointer.save(root / f"v0_pytree_{name}", trees[name])
    plain = v0.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=False)
    v0.Checkpointer(plain).save(root / "v0_handler_pure_dict", trees["pure_dict"])

    v1.save_checkpointables(
        root / "v1_items",
        {"weights": pure, "stats": pure_stats, "config": {"x": 1}, "opt": opt_state},
    )
    with v1.training.Checkpointer(root / "v1_steps") as steps:
        steps.save(2, {"model": both}, metrics={"accuracy": 0.5})
        steps.save(10, train)
    manager = v0.CheckpointManager(root / "v0_steps")
    manager.save(1, args=v0.args.StandardSave(train), metrics={"loss": 1.0})
    manager.close()
    options = v0.CheckpointManagerOptions(step_prefix="at", step_format_fixed_length=4)
    manager = v0.CheckpointManager(root / "v0_prefixed", options=options)
    items = v0.args.Composite(
        model=v0.args.PyTreeSave(both), config=v0.args.JsonSave({"x": 1})
    )
    manager.save(5, args=items)
    manager.close()


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
