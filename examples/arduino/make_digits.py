"""Write ``digits/digits.h`` for the sketch: ten groups of handwritten digits, found without labels, in 3 kB of flash.

python examples/arduino/make_digits.py
"""

from pathlib import Path

from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline

from distill import Distiller, to_c
from mbn import MultilayerBootstrapNetwork

X = load_digits().data  # 8 x 8 pixels from 0 to 16
teacher = make_pipeline(MultilayerBootstrapNetwork(random_state=0), KMeans(10, n_init=10, random_state=0))
student = Distiller(teacher, hidden_layer_sizes=(32,), random_state=0).fit(X[:1200])
path = Path(__file__).parent / "digits" / "digits.h"
to_c(student, path, name="digits", arithmetic="int8", calibration=X[:1200], target="avr")
held_out = X[1200:]
print(f"{path}: agreement with the teacher on held-out images {student.score(held_out):.3f}")
print("image of the sketch:", held_out[0].astype(int).tolist(), "label", student.predict(held_out[:1])[0])
