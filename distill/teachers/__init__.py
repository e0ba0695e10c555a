"""Predictions of a teacher as targets for the training of a network.

A teacher is any scikit-learn estimator, and the `target` is one of its methods. Its predictions are labels, class
probabilities, or values (an embedding, a score, a regression); `read_predictions` distinguishes them.
"""

from distill.teachers.answers import answers, check_answers
from distill.teachers.arrays import as_array, plain_classes
from distill.teachers.calls import (
    compare_labels,
    compare_labels_of_fit,
    fit_and_predict,
    labels_beside,
    predict,
    predict_beyond,
    with_noise,
)
from distill.teachers.copies import own_copy
from distill.teachers.ensemble import Ensemble, check_ensemble
from distill.teachers.methods import (
    PRECOMPUTED,
    Precomputed,
    is_detector,
    is_transductive,
    predicts_values,
    resolve_target,
    teacher_type,
)
from distill.teachers.noise import NOISE, without_noise
from distill.teachers.reading import Predictions, range_of, read_predictions
from distill.teachers.soft import inputs_of_last_step, soften

__all__ = [
    "NOISE",
    "PRECOMPUTED",
    "Ensemble",
    "Precomputed",
    "Predictions",
    "answers",
    "as_array",
    "check_answers",
    "check_ensemble",
    "compare_labels",
    "compare_labels_of_fit",
    "fit_and_predict",
    "inputs_of_last_step",
    "is_detector",
    "is_transductive",
    "labels_beside",
    "own_copy",
    "plain_classes",
    "predict",
    "predict_beyond",
    "predicts_values",
    "range_of",
    "read_predictions",
    "resolve_target",
    "soften",
    "teacher_type",
    "with_noise",
    "without_noise",
]
