import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune.inspect.summary import summarize
from jaxtune.pretrained import resnet18
from jaxtune.transfer import create_cnn_model, default_groups


def summary(**options):
    net = nnx.eval_shape(lambda: create_cnn_model(tiny_resnet, 3, hidden=(16,)))
    return summarize(net, groups=default_groups(net), size=32, **options)


def test_a_published_network_has_its_published_number_of_parameters():
    found = summarize(nnx.eval_shape(resnet18), size=(64, 96))
    assert (found.parameters, found.trained) == (11_689_512, 11_689_512)
    last = found.rows[-1]
    assert (last.path, last.kind, last.shape) == ("fc", "Linear", (1, 1000))
    # Running mean and variance beside each norm's weight and bias.
    assert found.statistics == 2 * 4800


@pytest.mark.parametrize(
    ("norms", "trains", "mode"),
    [("frozen", "no", "frozen"), ("stats", "no", "stats"), ("train", "yes", "train")],
)
def test_frozen_groups_and_their_norms_are_told(norms, trains, mode):
    found = summary(frozen=("early", "late"), norms=norms)
    rows = {row.path: row for row in found.rows}
    norm, conv = rows["body.layer1.0.bn1"], rows["body.layer1.0.conv1"]
    assert (norm.group, norm.norms) == ("early", mode)
    assert (norm.trained > 0) == (trains == "yes")
    assert (conv.group, conv.norms, conv.trained) == ("early", "", 0)
    assert rows["head.bn1"].norms == "train"
    assert rows["head.linear1"].trained == rows["head.linear1"].parameters > 0
    assert found.frozen == ("early", "late")


def test_totals_add_up():
    found = summary(frozen=("early", "late"))
    head = sum(row.parameters for row in found.rows if row.group == "head")
    assert found.trained == head
    assert found.parameters == sum(row.parameters for row in found.rows)


def test_it_prints_a_line_for_each_layer_and_totals():
    found = summary(frozen=("early",))
    lines = found.table().text(120).splitlines()
    [line] = [line for line in lines if line.startswith("body.bn1 ")]
    assert line.split() == [
        "body.bn1",
        "BatchNorm",
        "(b,",
        "16,",
        "16,",
        "8)",
        "16",
        "early",
        "no",
        "frozen",
    ]
    assert f"Trainable params: {found.trained:,}" in lines
    assert lines[-1] == "Frozen groups: early"
    rules = [i for i, line in enumerate(lines) if line.startswith("─")]
    assert lines[rules[1] + 1].startswith("body.layer3.0.conv1")
    assert max(map(len, found.table().text(80).splitlines())) <= 80
