"""Transfer learning for images on JAX.

    data = ImageDataLoaders.from_folder("photos")
    model = vision_learner(data, resnet34, metrics=error_rate)
    model.fine_tune(3, freeze_epochs=1)

The rooms, in the order of the data's way: `data`, `models`, `pretrained`, `transfer`,
`train`, `checkpoint`, `learner`. Everything a learner does can be done with the pure
functions of the rooms before it.
"""

from jaxtune.data import Augmentation as Augmentation
from jaxtune.data import ImageDataLoaders as ImageDataLoaders
from jaxtune.data import ImageError as ImageError
from jaxtune.data import load_image as load_image
from jaxtune.data import prepare_image as prepare_image
from jaxtune.learner import History as History
from jaxtune.learner import Learner as Learner
from jaxtune.learner import Prediction as Prediction
from jaxtune.learner import Predictor as Predictor
from jaxtune.learner import load_predictor as load_predictor
from jaxtune.learner import vision_learner as vision_learner
from jaxtune.models import BatchNorm as BatchNorm
from jaxtune.models import Conv as Conv
from jaxtune.models import Linear as Linear
from jaxtune.models import ResNet as ResNet
from jaxtune.models import Sequence as Sequence
from jaxtune.pretrained import ARCHITECTURES as ARCHITECTURES
from jaxtune.pretrained import Architecture as Architecture
from jaxtune.pretrained import Weights as Weights
from jaxtune.pretrained import read_weights as read_weights
from jaxtune.pretrained import resnet18 as resnet18
from jaxtune.pretrained import resnet18d as resnet18d
from jaxtune.pretrained import resnet26d as resnet26d
from jaxtune.pretrained import resnet34 as resnet34
from jaxtune.pretrained import resnet34d as resnet34d
from jaxtune.pretrained import resnet50 as resnet50
from jaxtune.pretrained import resnet50d as resnet50d
from jaxtune.pretrained import resnet101 as resnet101
from jaxtune.pretrained import resnet152 as resnet152
from jaxtune.pretrained import resnext50_32x4d as resnext50_32x4d
from jaxtune.pretrained import resnext101_32x8d as resnext101_32x8d
from jaxtune.pretrained import resnext101_64x4d as resnext101_64x4d
from jaxtune.pretrained import wide_resnet50_2 as wide_resnet50_2
from jaxtune.pretrained import wide_resnet101_2 as wide_resnet101_2
from jaxtune.train import TrainState as TrainState
from jaxtune.train import accuracy as accuracy
from jaxtune.train import adam as adam
from jaxtune.train import cross_entropy as cross_entropy
from jaxtune.train import error_rate as error_rate
from jaxtune.train import group_optimizer as group_optimizer
from jaxtune.train import make_eval_step as make_eval_step
from jaxtune.train import make_predict_step as make_predict_step
from jaxtune.train import make_train_step as make_train_step
from jaxtune.train import one_cycle as one_cycle
from jaxtune.train import optimizer_labels as optimizer_labels
from jaxtune.train import resolve_rates as resolve_rates
from jaxtune.train import sgd as sgd
from jaxtune.train import split_module as split_module
from jaxtune.train import top_5_accuracy as top_5_accuracy
from jaxtune.train import training_view as training_view
from jaxtune.transfer import Cut as Cut
from jaxtune.transfer import L as L
from jaxtune.transfer import create_body as create_body
from jaxtune.transfer import create_cnn_model as create_cnn_model
from jaxtune.transfer import create_head as create_head
from jaxtune.transfer import group_labels as group_labels
from jaxtune.transfer import inspect_cuts as inspect_cuts
from jaxtune.transfer import num_features as num_features
from jaxtune.transfer import params as params

__version__ = "0.1.0"
