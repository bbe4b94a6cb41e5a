from flax import nnx
from photos import tiny_resnet

from jaxtune.inspect.layer_groups import group_finder
from jaxtune.train import split_module
from jaxtune.transfer import create_cnn_model, default_groups, group_labels


def test_layers_without_parameters_belong_to_what_surrounds_them():
    net = nnx.eval_shape(lambda: create_cnn_model(tiny_resnet, 3))
    find = group_finder(group_labels(split_module(net)[1], default_groups(net)))
    assert find("body.layer1.0.conv1.weight") == "early"
    assert find("body.layer1.0.bn1") == "early"
    assert find("body.layer3.0.bn1.running_mean") == "late"
    assert find("body.layer4") == "late"
    assert find("head.dropout1") == "head"
    # The body has two groups: what stands in it directly is in neither.
    assert find("body.relu") == ""
    assert find("body") == "" and find("somewhere.else") == ""
