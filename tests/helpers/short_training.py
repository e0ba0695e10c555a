"""Bounds for all trainings of students and compressors, for tests that are not about their quality."""

import sys

from distill.training import loop


def limit_training(monkeypatch, **bounds):
    """Set bounds of the options of `distill.training.loop.train`, such as ``max_iter``, wherever it is used."""
    train = loop.train

    def train_briefly(*arguments, **options):
        for name, bound in bounds.items():
            options[name] = min(options.get(name, bound), bound)
        return train(*arguments, **options)

    for module in [module for name, module in sys.modules.items() if name.startswith("distill.")]:
        if vars(module).get("train") is train:
            monkeypatch.setattr(module, "train", train_briefly)
