"""Predictions of a trained network, and their evaluation."""

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
