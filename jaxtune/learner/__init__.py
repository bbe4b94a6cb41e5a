"""The shell: the learner, its epoch loop, callbacks, history, results and tables."""

from jaxtune.inspect.diff import FrozenMovedError as FrozenMovedError
from jaxtune.inspect.diff import tree_diff as tree_diff
from jaxtune.inspect.gradcam import GradCam as GradCam
from jaxtune.inspect.gradcam import grad_cam as grad_cam
from jaxtune.inspect.gradcam import plot_grad_cams as plot_grad_cams
from jaxtune.inspect.kernels import first_layer_kernels as first_layer_kernels
from jaxtune.inspect.plan import plan_phases as plan_phases
from jaxtune.inspect.summary import summarize as summarize
from jaxtune.learner.from_checkpoint import continue_from as continue_from
from jaxtune.learner.learner import Learner as Learner
from jaxtune.learner.vision import vision_learner as vision_learner
from jaxtune.loop.callbacks import Callback as Callback
from jaxtune.loop.callbacks import CSVLogger as CSVLogger
from jaxtune.loop.callbacks import EarlyStopping as EarlyStopping
from jaxtune.loop.callbacks import JSONLogger as JSONLogger
from jaxtune.loop.callbacks import LambdaCallback as LambdaCallback
from jaxtune.loop.callbacks import ReduceLROnPlateau as ReduceLROnPlateau
from jaxtune.loop.callbacks import SaveBest as SaveBest
from jaxtune.loop.callbacks import StopPhase as StopPhase
from jaxtune.loop.callbacks import StopTraining as StopTraining
from jaxtune.loop.history import History as History
from jaxtune.loop.history import Row as Row
from jaxtune.loop.memory import OutOfMemoryError as OutOfMemoryError
from jaxtune.loop.resume import RunStopped as RunStopped
from jaxtune.loop.trainer import NonFiniteLossError as NonFiniteLossError
from jaxtune.results.interpretation import (
    ClassificationInterpretation as ClassificationInterpretation,
)
from jaxtune.results.interpretation import Interpretation as Interpretation
from jaxtune.results.interpretation import (
    RegressionInterpretation as RegressionInterpretation,
)
from jaxtune.results.predictions import Predictions as Predictions
from jaxtune.results.predictor import Prediction as Prediction
from jaxtune.results.predictor import Predictor as Predictor
from jaxtune.results.predictor import load_predictor as load_predictor
