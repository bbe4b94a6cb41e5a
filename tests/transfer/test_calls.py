import jax.numpy as jnp
import pytest
from flax import nnx

from jaxtune.models import Sequence
from jaxtune.transfer.calls import last_calls, record_calls


def conv(features=4):
    return nnx.Conv(features, features, (3, 3), rngs=nnx.Rngs(0))


class Branches(nnx.Module):
    """Everything that can stand between two calls."""

    def __init__(self):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        self.left, self.right = conv(), conv()
        self.sliced, self.joined = conv(2), conv(8)
        self.strided, self.pooled = conv(), nnx.Conv(4, 4, (8, 8), rngs=nnx.Rngs(0))
        self.fc = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        left, right = self.left(x), self.right(x)
        x = left + right
        part = self.sliced(x[..., :2])
        x = self.joined(jnp.concatenate([x, part, part], -1))
        x = self.strided(nnx.relu(x[:, ::2, ::2, :4]))
        x = nnx.avg_pool(x, (8, 8), (8, 8))
        return self.fc(nnx.relu(self.pooled(inputs=x)).mean((1, 2)))


def test_calls_tell_whether_all_goes_through_the_next_one():
    calls = {call.name: call for call in record_calls(Branches(), 3, 16)}
    assert {name for name, call in calls.items() if call.whole} == {
        # right: what follows is handed a part; left: the next branch hasn't seen it.
        *("stem", "sliced", "fc")
    }
    assert calls["sliced"].output == (1, 16, 16, 2)
    assert calls["sliced"].handed == (1, 16, 16, 8)
    assert calls["joined"].handed == (1, 8, 8, 4)
    assert calls["pooled"].output == (1, 1, 1, 4)
    assert calls["fc"].handed == (1, 2)


def test_what_a_child_gives_beside_an_array_is_no_map():
    class Pair(nnx.Module):
        def __call__(self, x):
            return x, x.mean()

    class Net(nnx.Module):
        def __init__(self):
            self.pair, self.conv = Pair(), conv(3)

        def __call__(self, x):
            x, mean = self.pair(x)
            return self.conv(x) * mean

    pair, last = record_calls(Net(), 3, 8)
    assert pair.output is None and not pair.whole and pair.handed == (1, 8, 8, 3)
    assert last.whole


def test_the_calls_of_a_sequence_are_its_children_functions_too():
    net = Sequence({"conv": conv(3), "pool": lambda x: x.mean((1, 2))})
    calls = record_calls(net, 3, 8)
    assert [(c.name, c.output, c.handed, c.whole) for c in calls] == [
        ("conv", (1, 8, 8, 3), (1, 8, 8, 3), True),
        ("pool", (1, 3), (1, 3), True),
    ]
    broken = Sequence({"conv": conv(3), "fc": nnx.Linear(7, 2, rngs=nnx.Rngs(0))})
    with pytest.raises(ValueError, match="doesn't run on images .1, 8, 8, 3.*'fc'"):
        record_calls(broken, 3, 8)


def test_the_last_call_of_each_child_decides_its_place():
    class Net(nnx.Module):
        def __init__(self):
            self.conv, self.act = conv(3), nnx.PReLU()

        def __call__(self, x):
            return self.act(self.conv(self.act(self.conv(self.act(x)))))

    assert last_calls(record_calls(Net(), 3, 8)) == {"conv": 3, "act": 4}
