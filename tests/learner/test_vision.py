import numpy as np
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune import create_body, error_rate, resnet18, vision_learner
from jaxtune.models import GlobalAvgPool, Linear, Sequential


def test_a_pretrained_learner_is_frozen_and_another_is_not(data):
    assert vision_learner(data, tiny_resnet).frozen_groups == ("early", "late")
    assert vision_learner(data, tiny_resnet, pretrained=False).frozen_groups == ()


def test_the_pretrained_body_has_the_published_values(data, weights_dir):
    from safetensors.numpy import load_file

    model = vision_learner(data, resnet18)
    published = load_file(weights_dir / "resnet18_imagenet1k_v1.safetensors")
    np.testing.assert_array_equal(
        model.model[0].layer3[1].conv2.weight[...],
        published["layer3.1.conv2.weight"].transpose(2, 3, 1, 0),
    )


def test_fastais_splitter_and_cut_are_honoured(data):
    model = vision_learner(
        data, tiny_resnet, cut=-3, split_on=lambda m: (m[0][5], m[1])
    )
    assert model.model[0].names[-1] == "layer3"
    assert list(model.groups) == ["group0", "group1", "group2"]


def test_a_body_of_ones_own_is_taken_whole_and_frozen(data):
    body = create_body(tiny_resnet())
    model = vision_learner(data, body=body, mean=0.5, std=(0.2, 0.3, 0.4))
    assert model.model[0] is body and model.frozen_groups == ("early", "late")
    assert vision_learner(data, body=body, pretrained=False).frozen_groups == ()


def test_the_head_must_fit_the_classes(data):
    head = Sequential({"pool": GlobalAvgPool(), "fc": Linear(32, 4, rngs=nnx.Rngs(0))})
    with pytest.raises(
        ValueError, match=r"the head must return \(b, 3\), .* shape \('b', 4\)"
    ):
        vision_learner(data, tiny_resnet, head=head)


def test_an_unknown_option_is_named(data):
    with pytest.raises(TypeError, match="no option metric. Did you mean metrics"):
        vision_learner(data, tiny_resnet, metric=error_rate)


@pytest.mark.parametrize("normalize", [True, False])
def test_normalisation_is_the_weights(data, normalize):
    model = vision_learner(data, tiny_resnet, normalize=normalize)
    mean = model._trainer.programs.mean
    assert mean == ((0.485, 0.456, 0.406) if normalize else None)
