"""The shell: the learner, its epoch loop, history and live table."""

from jaxtune.learner.history import History as History
from jaxtune.learner.history import Row as Row
from jaxtune.learner.learner import Learner as Learner
from jaxtune.learner.predictor import Prediction as Prediction
from jaxtune.learner.predictor import Predictor as Predictor
from jaxtune.learner.predictor import load_predictor as load_predictor
from jaxtune.learner.stopping import RunStopped as RunStopped
from jaxtune.learner.vision import vision_learner as vision_learner
