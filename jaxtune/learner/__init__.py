"""The shell: the learner, its epoch loop, callbacks, history, results and tables."""

from jaxtune.learner.callbacks import Callback as Callback
from jaxtune.learner.callbacks import CSVLogger as CSVLogger
from jaxtune.learner.callbacks import EarlyStopping as EarlyStopping
from jaxtune.learner.callbacks import JSONLogger as JSONLogger
from jaxtune.learner.callbacks import LambdaCallback as LambdaCallback
from jaxtune.learner.callbacks import ReduceLROnPlateau as ReduceLROnPlateau
from jaxtune.learner.callbacks import SaveBest as SaveBest
from jaxtune.learner.callbacks import StopPhase as StopPhase
from jaxtune.learner.callbacks import StopTraining as StopTraining
from jaxtune.learner.continuing import continue_from as continue_from
from jaxtune.learner.frozen import FrozenMovedError as FrozenMovedError
from jaxtune.learner.gathering import Predictions as Predictions
from jaxtune.learner.gradcam import GradCam as GradCam
from jaxtune.learner.gradcam import grad_cam as grad_cam
from jaxtune.learner.gradcam import plot_grad_cams as plot_grad_cams
from jaxtune.learner.history import History as History
from jaxtune.learner.history import Row as Row
from jaxtune.learner.interpretation import (
    ClassificationInterpretation as ClassificationInterpretation,
)
from jaxtune.learner.interpretation import Interpretation as Interpretation
from jaxtune.learner.kernels import first_layer_kernels as first_layer_kernels
from jaxtune.learner.learner import Learner as Learner
from jaxtune.learner.loop import NonFiniteLossError as NonFiniteLossError
from jaxtune.learner.memory import OutOfMemoryError as OutOfMemoryError
from jaxtune.learner.moved import tree_diff as tree_diff
from jaxtune.learner.plan import plan_phases as plan_phases
from jaxtune.learner.predictor import Prediction as Prediction
from jaxtune.learner.predictor import Predictor as Predictor
from jaxtune.learner.predictor import load_predictor as load_predictor
from jaxtune.learner.regression import (
    RegressionInterpretation as RegressionInterpretation,
)
from jaxtune.learner.stopping import RunStopped as RunStopped
from jaxtune.learner.summary import summarize as summarize
from jaxtune.learner.vision import vision_learner as vision_learner
