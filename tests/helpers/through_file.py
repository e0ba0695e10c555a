"""Send a fitted transformer through the bytes of a student file, and compute its rows with NumPy alone."""

import numpy as np
from some_students import make_network

from distill import load, translation
from distill.codecs import container, table
from distill.codecs.table import TableStep
from distill.runtime.table.rows import table_rows


def file_of(transformer, single=False):
    """Return the bytes of a student file whose table is a fitted transformer."""
    n_columns, names, texts = translation.input_of(transformer)
    step = TableStep(n_columns, translation.operations_of(transformer, "step 'it'"), texts)
    network = container.encode(make_network((table.n_outputs(step.operations, n_columns), 1)))
    return container.with_steps(network, n_columns, [step], names, single=single)


def loaded(transformer, single=False):
    """Return the function from rows to numbers of a loaded file, as a student computes it."""
    student = load(file_of(transformer, single))
    step, names = student.preprocessing.table, student.network.feature_names
    return lambda X: student.preprocessing(table_rows(X, step, names))


def expected(transformer, X):
    """Return what scikit-learn computes, dense."""
    rows = transformer.transform(X)
    rows = rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)
    return rows.astype(np.float64)
