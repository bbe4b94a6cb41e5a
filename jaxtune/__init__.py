"""Transfer learning for images on JAX.

    data = ImageDataLoaders.from_folder("photos")
    model = vision_learner(data, resnet34, metrics=error_rate)
    model.fine_tune(3, freeze_epochs=1)

And without the learner, the same numbers:

    net = create_cnn_model(resnet34, num_classes)    # net[0] the body, net[1] the head
    groups = default_groups(net)                     # layer groups, first to last
    labels = group_labels(split_module(net)[1], groups)
    trained = optimizer_labels(labels, frozen)       # FROZEN for frozen parameters
    tx = group_optimizer(trained, rates, one_cycle(steps))
    graphdef, params, model_state = split_module(training_view(net, labels, frozen))
    step = compile_step(make_train_step(graphdef, tx, loss=loss, labels=trained))
    state, metrics = step(TrainState.create(params, model_state, tx), batch, key)

The main names by room, in the order in which data passes through the rooms:

- data: `ImageDataLoaders`; on the device `training_images` and `validation_images`,
  and their parts: `augment`, `per_image_keys`, `to_float`, `normalize`.
- models and pretrained: `resnet18` and others, `ARCHITECTURES`, `register_model` for
  your own, `read_weights`; the layers `Sequential`, `Conv`, `Linear`, `BatchNorm`.
- transfer: `create_cnn_model`, or `create_body` and `create_head`; `inspect_cuts`;
  `default_groups`, `split_groups`, `group_labels`; `evaluating`, the view for
  validation; `extend_outputs`, which adds classes.
- train, pure functions: `split_module`, `TrainState`; `optimizer_labels`,
  `training_view`, `with_precision`, `norm_paths`, `no_decay_paths`; `group_optimizer`
  with `adam`, `sgd` or your own `Optimizer`; `one_cycle`, `flat_cosine`, `constant`,
  `curve`, `over_updates`; `fine_tune_phases`; `make_train_step`, `make_eval_step`,
  `make_predict_step` over `apply_module`; `init_average`, `averaged`; `compile_step`;
  losses and metrics.
- checkpoint: `save_checkpoint`, `load_checkpoint`, `inspect_checkpoint` and others;
  plain Orbax can open the checkpoints.
- learner: `vision_learner`, `continue_from`, `Learner`, `load_predictor`.
"""

import warnings
from typing import Any

from jaxtune.checkpoint import CheckpointDamagedError as CheckpointDamagedError
from jaxtune.checkpoint import CheckpointMismatchError as CheckpointMismatchError
from jaxtune.checkpoint import RunMismatchError as RunMismatchError
from jaxtune.checkpoint import inspect_checkpoint as inspect_checkpoint
from jaxtune.checkpoint import load_checkpoint as load_checkpoint
from jaxtune.checkpoint import load_meta as load_meta
from jaxtune.checkpoint import load_opt_state as load_opt_state
from jaxtune.checkpoint import save_checkpoint as save_checkpoint
from jaxtune.checkpoint import save_checkpoint_async as save_checkpoint_async
from jaxtune.data import Augmentation as Augmentation
from jaxtune.data import BatchTransform as BatchTransform
from jaxtune.data import CutMix as CutMix
from jaxtune.data import ImageDataLoaders as ImageDataLoaders
from jaxtune.data import ImageError as ImageError
from jaxtune.data import MixUp as MixUp
from jaxtune.data import Transform as Transform
from jaxtune.data import aug_transforms as aug_transforms
from jaxtune.data import augment as augment
from jaxtune.data import batchwise as batchwise
from jaxtune.data import class_weights as class_weights
from jaxtune.data import load_image as load_image
from jaxtune.data import normalize as normalize
from jaxtune.data import partners as partners
from jaxtune.data import per_image_keys as per_image_keys
from jaxtune.data import prepare_image as prepare_image
from jaxtune.data import show_batch as show_batch
from jaxtune.data import to_float as to_float
from jaxtune.data import training_images as training_images
from jaxtune.data import validation_images as validation_images
from jaxtune.inspect import FrozenMovedError as FrozenMovedError
from jaxtune.inspect import GradCam as GradCam
from jaxtune.inspect import first_layer_kernels as first_layer_kernels
from jaxtune.inspect import grad_cam as grad_cam
from jaxtune.inspect import plan_phases as plan_phases
from jaxtune.inspect import plot_grad_cams as plot_grad_cams
from jaxtune.inspect import summarize as summarize
from jaxtune.inspect import tree_diff as tree_diff
from jaxtune.learner import Learner as Learner
from jaxtune.learner import continue_from as continue_from
from jaxtune.learner import vision_learner as vision_learner
from jaxtune.loop import Callback as Callback
from jaxtune.loop import CSVLogger as CSVLogger
from jaxtune.loop import EarlyStopping as EarlyStopping
from jaxtune.loop import History as History
from jaxtune.loop import JSONLogger as JSONLogger
from jaxtune.loop import LambdaCallback as LambdaCallback
from jaxtune.loop import NonFiniteLossError as NonFiniteLossError
from jaxtune.loop import OutOfMemoryError as OutOfMemoryError
from jaxtune.loop import ReduceLROnPlateau as ReduceLROnPlateau
from jaxtune.loop import RunStopped as RunStopped
from jaxtune.loop import SaveBest as SaveBest
from jaxtune.loop import StopPhase as StopPhase
from jaxtune.loop import StopTraining as StopTraining
from jaxtune.models import BatchNorm as BatchNorm
from jaxtune.models import Conv as Conv
from jaxtune.models import Linear as Linear
from jaxtune.models import ResNet as ResNet
from jaxtune.models import Sequential as Sequential
from jaxtune.pretrained import ARCHITECTURES as ARCHITECTURES
from jaxtune.pretrained import IMAGENET_MEAN as IMAGENET_MEAN
from jaxtune.pretrained import IMAGENET_STD as IMAGENET_STD
from jaxtune.pretrained import Architecture as Architecture
from jaxtune.pretrained import RegisteredModel as RegisteredModel
from jaxtune.pretrained import Weights as Weights
from jaxtune.pretrained import adapt_channels as adapt_channels
from jaxtune.pretrained import read_weights as read_weights
from jaxtune.pretrained import register_model as register_model
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
from jaxtune.results import ClassificationInterpretation as ClassificationInterpretation
from jaxtune.results import Interpretation as Interpretation
from jaxtune.results import Prediction as Prediction
from jaxtune.results import Predictions as Predictions
from jaxtune.results import Predictor as Predictor
from jaxtune.results import RegressionInterpretation as RegressionInterpretation
from jaxtune.results import load_predictor as load_predictor
from jaxtune.train import FROZEN as FROZEN
from jaxtune.train import APScoreMulti as APScoreMulti
from jaxtune.train import Average as Average
from jaxtune.train import BalancedAccuracy as BalancedAccuracy
from jaxtune.train import CohenKappa as CohenKappa
from jaxtune.train import DeviceError as DeviceError
from jaxtune.train import EpochMetric as EpochMetric
from jaxtune.train import F1Score as F1Score
from jaxtune.train import F1ScoreMulti as F1ScoreMulti
from jaxtune.train import GroupState as GroupState
from jaxtune.train import LRFind as LRFind
from jaxtune.train import MatthewsCorrCoef as MatthewsCorrCoef
from jaxtune.train import Optimizer as Optimizer
from jaxtune.train import Phase as Phase
from jaxtune.train import Precision as Precision
from jaxtune.train import PrecisionMulti as PrecisionMulti
from jaxtune.train import R2Score as R2Score
from jaxtune.train import Recall as Recall
from jaxtune.train import RecallMulti as RecallMulti
from jaxtune.train import RocAuc as RocAuc
from jaxtune.train import RocAucBinary as RocAucBinary
from jaxtune.train import RocAucMulti as RocAucMulti
from jaxtune.train import Schedule as Schedule
from jaxtune.train import TrainState as TrainState
from jaxtune.train import accuracy as accuracy
from jaxtune.train import accuracy_multi as accuracy_multi
from jaxtune.train import adam as adam
from jaxtune.train import apply_module as apply_module
from jaxtune.train import averaged as averaged
from jaxtune.train import binary_cross_entropy as binary_cross_entropy
from jaxtune.train import boundary_index as boundary_index
from jaxtune.train import compile_step as compile_step
from jaxtune.train import constant as constant
from jaxtune.train import cross_entropy as cross_entropy
from jaxtune.train import curve as curve
from jaxtune.train import default_activation as default_activation
from jaxtune.train import default_loss as default_loss
from jaxtune.train import epoch_figures as epoch_figures
from jaxtune.train import error_rate as error_rate
from jaxtune.train import exponential as exponential
from jaxtune.train import fine_tune_phases as fine_tune_phases
from jaxtune.train import flat_cosine as flat_cosine
from jaxtune.train import focal as focal
from jaxtune.train import gradual_phases as gradual_phases
from jaxtune.train import group_optimizer as group_optimizer
from jaxtune.train import group_states as group_states
from jaxtune.train import has_updated as has_updated
from jaxtune.train import init_average as init_average
from jaxtune.train import l1 as l1
from jaxtune.train import lr_sweep as lr_sweep
from jaxtune.train import mae as mae
from jaxtune.train import make_eval_step as make_eval_step
from jaxtune.train import make_predict_step as make_predict_step
from jaxtune.train import make_train_step as make_train_step
from jaxtune.train import mse as mse
from jaxtune.train import no_decay_paths as no_decay_paths
from jaxtune.train import norm_paths as norm_paths
from jaxtune.train import one_cycle as one_cycle
from jaxtune.train import optimizer_labels as optimizer_labels
from jaxtune.train import over_updates as over_updates
from jaxtune.train import resolve_rates as resolve_rates
from jaxtune.train import restart_schedule as restart_schedule
from jaxtune.train import rmse as rmse
from jaxtune.train import sgd as sgd
from jaxtune.train import slanted_triangular as slanted_triangular
from jaxtune.train import split_module as split_module
from jaxtune.train import still_statistics as still_statistics
from jaxtune.train import suggest_rates as suggest_rates
from jaxtune.train import top_5_accuracy as top_5_accuracy
from jaxtune.train import training_view as training_view
from jaxtune.train import update_average as update_average
from jaxtune.train import weighted_cross_entropy as weighted_cross_entropy
from jaxtune.train import with_precision as with_precision
from jaxtune.transfer import Cut as Cut
from jaxtune.transfer import L as L
from jaxtune.transfer import create_body as create_body
from jaxtune.transfer import create_cnn_model as create_cnn_model
from jaxtune.transfer import create_head as create_head
from jaxtune.transfer import default_groups as default_groups
from jaxtune.transfer import evaluating as evaluating
from jaxtune.transfer import extend_outputs as extend_outputs
from jaxtune.transfer import group_labels as group_labels
from jaxtune.transfer import inspect_cuts as inspect_cuts
from jaxtune.transfer import num_features as num_features
from jaxtune.transfer import params as params
from jaxtune.transfer import split_groups as split_groups

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Returns `Sequential` by its former name, with a warning."""
    if name == "Sequence":
        warnings.warn(
            "jaxtune.Sequence is now called jaxtune.Sequential.",
            DeprecationWarning,
            stacklevel=2,
        )
        return Sequential
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
