"""Generated pipelines and frames: the rows of a loaded file are those of scikit-learn.

A generated pipeline is fitted to a small frame, sent through the bytes of a student file, and compared on another
frame, with missing values, unknown categories, odd dtypes, unicode and no rows at all. Where scikit-learn refuses the
rows, so must the file.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, SelectPercentile, VarianceThreshold
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)  # fmt: skip
from through_file import expected, loaded

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis generates the pipelines")
from hypothesis import strategies as st  # noqa: E402

# Degenerate columns make scikit-learn warn; what it computes then is compared all the same
pytestmark = pytest.mark.filterwarnings("ignore")

# Eighths, so that sums have no rounding that depends on their order
NUMBERS = st.integers(-64, 64).map(lambda value: value / 8)
WORDS = ["a", "b", "ab", "ß", "日本", "", " a", "A", "1", "nan", "None", "zebra", "e\u0301", "é", "x" * 40]


def examples(count):
    """Return the decorator that runs a test on so many generated examples, the same ones every time."""
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def compare(transformer, rows, y, new):
    """Fit a transformer, and compare the rows of its file with its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            transformer.fit(rows, y)
        except (ValueError, TypeError):
            hypothesis.reject()  # no pipeline, such as one that takes no missing values
        try:
            width = transformer.transform(rows).shape[1]
            wanted = expected(transformer, new)
        except ValueError as error:
            if "pandas.NA" in str(error):  # scikit-learn does not put nullable columns side by side
                hypothesis.reject()
            wanted = None
        except (TypeError, IndexError):
            hypothesis.reject()  # no refusal, as of text columns of which all values are missing
    if not width:
        hypothesis.reject()
    try:
        run = loaded(transformer)
    except ValueError as error:
        assert "missing in all rows" in str(error)
        hypothesis.reject()
    if not len(new):  # scikit-learn refuses an X without rows, a student does not
        assert run(new).shape == (0, width)
        return
    if wanted is None:
        with pytest.raises(ValueError, match="X"):
            run(new)
        return
    found = run(new)
    scale = np.nanmax(np.abs(wanted), initial=1, where=np.isfinite(wanted))
    assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * scale)
    # A row alone has the same bits
    if len(new) > 1:
        one = new.iloc[1:2] if hasattr(new, "iloc") else new[1:2]
        np.testing.assert_array_equal(run(one), found[1:2])


# frames


def _numbers(draw, count, missing):
    values = draw(st.lists(NUMBERS, min_size=count, max_size=count))
    if missing:
        holes = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        values = [np.nan if hole else value for value, hole in zip(values, holes)]
    return values


@st.composite
def numeric_frames(draw):
    """Return a frame to fit, a target and another frame, all of numbers."""
    n_rows, n_new, width = draw(st.integers(4, 16)), draw(st.sampled_from([0, 1, 2, 5])), draw(st.integers(1, 4))
    frames = []
    dtypes = draw(
        st.lists(st.sampled_from(["float64", "float64", "int64", "bool", "Float64"]), min_size=width, max_size=width)
    )
    holes = draw(st.booleans())
    for count in (n_rows, n_new):
        columns = {}
        for index, dtype in enumerate(dtypes):
            values = _numbers(draw, count, holes and dtype in ("float64", "Float64"))
            if dtype in ("int64", "bool"):
                values = np.rint(values).astype(dtype)
            columns[f"n{index}"] = pd.Series(values, dtype=dtype)
        frames.append(pd.DataFrame(columns))
    y = np.arange(n_rows) % 3
    return frames[0], y, frames[1]


@st.composite
def categorical_frames(draw):
    """Return a frame to fit, a target and another frame, of categories of several types."""
    n_rows, n_new, width = draw(st.integers(4, 16)), draw(st.sampled_from([0, 1, 2, 5])), draw(st.integers(1, 3))
    fit, new = {}, {}
    for index in range(width):
        kind = draw(st.sampled_from(["text", "objects", "category", "integers", "floats", "booleans", "nullable"]))
        if kind in ("text", "objects", "category"):
            pool, unknown = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5, unique=True)), ["?", "€"]
        elif kind == "booleans":
            pool, unknown = [False, True], []
        else:
            pool, unknown = draw(st.lists(st.integers(-3, 2**40), min_size=1, max_size=5, unique=True)), [-7, 2**50]
        if kind == "floats":
            pool, unknown = [value / 10 for value in pool], [0.123]
        missing = draw(st.booleans()) and kind not in ("integers", "booleans")
        marker = draw(st.sampled_from([None, np.nan])) if kind == "objects" else np.nan
        values = draw(st.lists(st.sampled_from(pool), min_size=n_rows, max_size=n_rows))
        others = pool + (unknown if draw(st.booleans()) else [])
        if missing:
            values[0] = pd.NA if kind == "nullable" else marker
            others = [*others, values[0]]
        more = draw(st.lists(st.sampled_from(others), min_size=n_new, max_size=n_new))
        dtype = {"text": "str", "objects": object, "category": "category", "nullable": "Int64", "booleans": bool}.get(
            kind
        )
        dtype = dtype or ("float64" if kind == "floats" else "int64")
        fit[f"c{index}"], new[f"c{index}"] = pd.Series(values, dtype=dtype), pd.Series(more, dtype=dtype)
    return pd.DataFrame(fit), np.arange(n_rows) % 3, pd.DataFrame(new)


# transformers

IMPUTERS = st.builds(
    SimpleImputer,
    strategy=st.sampled_from(["mean", "median", "most_frequent", "constant"]),
    add_indicator=st.booleans(),
    keep_empty_features=st.booleans(),
)
EXACT = st.one_of(
    st.builds(StandardScaler, with_mean=st.booleans(), with_std=st.booleans()),
    st.builds(MinMaxScaler, clip=st.booleans()),
    st.builds(MaxAbsScaler),
    st.builds(RobustScaler, with_centering=st.booleans(), with_scaling=st.booleans()),
    st.builds(KBinsDiscretizer, n_bins=st.integers(2, 4), encode=st.sampled_from(["onehot", "ordinal", "onehot-dense"]),
              strategy=st.sampled_from(["uniform", "quantile"])),
    st.builds(Binarizer, threshold=NUMBERS),
    st.builds(PolynomialFeatures, degree=st.one_of(st.integers(0, 3), st.sampled_from([(1, 2), (2, 3), (0, 1)])),
              interaction_only=st.booleans(), include_bias=st.booleans()),
    st.builds(VarianceThreshold),
    st.builds(SelectKBest, k=st.just(1)),
    st.builds(SelectPercentile, percentile=st.just(60)),
    st.builds(FunctionTransformer, st.sampled_from([None, np.abs, np.sign, np.floor, np.square, np.negative])),
    st.builds(QuantileTransformer, n_quantiles=st.integers(1, 5)),
    st.builds(MissingIndicator, features=st.sampled_from(["all", "missing-only"]), error_on_new=st.booleans()),
)  # fmt: skip
INEXACT = st.one_of(
    st.builds(QuantileTransformer, n_quantiles=st.integers(2, 5), output_distribution=st.just("normal")),
    st.builds(PowerTransformer, standardize=st.just(False)),
    st.builds(SplineTransformer, n_knots=st.integers(2, 4), degree=st.integers(0, 3), include_bias=st.booleans(),
              extrapolation=st.sampled_from(["error", "constant", "linear", "continue", "periodic"])),
    st.builds(Normalizer, norm=st.sampled_from(["l1", "l2", "max"])),
    st.builds(PCA, n_components=st.just(1), whiten=st.booleans(), svd_solver=st.just("full")),
    st.builds(TruncatedSVD, n_components=st.just(1), random_state=st.just(0)),
    # After a step that makes floats: NumPy computes functions of booleans with half precision
    st.builds(make_pipeline, st.just(MaxAbsScaler()),
              st.builds(FunctionTransformer, st.sampled_from([np.log1p, np.sqrt, np.expm1, np.tanh, np.exp]))),
)  # fmt: skip


@st.composite
def numeric_pipelines(draw):
    steps = draw(st.lists(IMPUTERS, max_size=1)) + draw(st.lists(EXACT, max_size=2))
    steps += draw(st.lists(INEXACT, max_size=1))
    return make_pipeline(*(steps or [FunctionTransformer()]))


ENCODERS = st.one_of(
    st.builds(
        OneHotEncoder,
        handle_unknown=st.sampled_from(["error", "ignore", "infrequent_if_exist"]),
        drop=st.sampled_from([None, "first", "if_binary"]),
        min_frequency=st.sampled_from([None, 2, 0.3]),
        max_categories=st.sampled_from([None, None, 1, 2, 3]),
        sparse_output=st.booleans(),
    ),
    st.builds(
        OrdinalEncoder,
        handle_unknown=st.just("use_encoded_value"),
        unknown_value=st.sampled_from([-1, np.nan, 99]),
        encoded_missing_value=st.sampled_from([np.nan, -2]),
        min_frequency=st.sampled_from([None, 2]),
        max_categories=st.sampled_from([None, 2]),
    ),
    st.builds(OrdinalEncoder),
    st.builds(TargetEncoder, target_type=st.sampled_from(["auto", "continuous"])),
)
CATEGORICAL = st.one_of(
    ENCODERS,
    st.builds(make_pipeline, st.builds(SimpleImputer, strategy=st.just("most_frequent")), ENCODERS),
    st.builds(make_pipeline, st.builds(SimpleImputer, strategy=st.just("constant"), fill_value=st.just("?")), ENCODERS),
    st.builds(make_pipeline, ENCODERS, st.builds(SimpleImputer), st.builds(StandardScaler)),
)


@examples(230)
@hypothesis.given(frames=numeric_frames(), pipeline=numeric_pipelines())
def test_numeric_pipelines(frames, pipeline):
    compare(pipeline, *frames)


@examples(190)
@hypothesis.given(frames=categorical_frames(), pipeline=CATEGORICAL)
def test_categorical_pipelines(frames, pipeline):
    compare(pipeline, *frames)


@st.composite
def selectors(draw, names):
    """Return columns by name, index, slice or mask."""
    first = draw(st.integers(0, len(names) - 1))
    chosen = sorted(draw(st.sets(st.integers(0, len(names) - 1), min_size=1)))
    mask = np.isin(np.arange(len(names)), chosen)
    return draw(
        st.sampled_from(
            [[names[index] for index in chosen], chosen, slice(first, None), slice(names[first], names[-1]), mask, []]
        )
    )


@examples(70)
@hypothesis.given(data=st.data(), numbers=numeric_frames(), categories=categorical_frames())
def test_columns_and_unions(data, numbers, categories):
    """Also nested, with weights, remainders and columns that are dropped."""
    n_rows, n_new = min(len(numbers[0]), len(categories[0])), min(len(numbers[2]), len(categories[2]))
    rows, new = (
        pd.concat([one.iloc[:count], other.iloc[:count]], axis=1)
        for one, other, count in ((numbers[0], categories[0], n_rows), (numbers[2], categories[2], n_new))
    )
    draw = data.draw
    names = list(numbers[0].columns)
    inner = draw(numeric_pipelines())
    if draw(st.booleans()):
        inner = make_union(inner, draw(st.sampled_from(["passthrough", "drop"])), draw(st.builds(SimpleImputer)))
    transformers = [
        ("numbers", inner, draw(selectors(names))),
        ("dropped", "drop", draw(selectors(names))),
        ("plain", "passthrough", draw(selectors(names))),
        ("categories", draw(CATEGORICAL), list(categories[0].columns)),
    ]
    weights = draw(st.sampled_from([None, {"numbers": 0.5}, {"plain": 2.0, "categories": -1.0}]))
    columns = ColumnTransformer(
        transformers,
        transformer_weights=weights,
        remainder=draw(st.sampled_from(["drop", "passthrough", StandardScaler()])),
    )
    if draw(st.booleans()):
        columns = make_pipeline(
            FeatureUnion([("all", columns), ("half", ColumnTransformer([("n", columns, slice(0, None))]))])
        )
    y = numbers[1][:n_rows]
    compare(columns, rows, y, new)
    reordered = new[new.columns[::-1]]
    if hasattr(columns, "transformers_") and len(new):
        try:
            wanted = expected(columns, reordered)
        except (ValueError, TypeError):
            return
        scale = np.nanmax(np.abs(wanted), initial=1, where=np.isfinite(wanted))
        assert_allclose(loaded(columns)(reordered), wanted, rtol=1e-12, atol=1e-12 * scale)


TEXTS = st.lists(
    st.one_of(
        st.text(alphabet="abAB ßİé\u0301_1-.\t\n", max_size=30),
        st.sampled_from(
            ["the fox and the dog", "déjà VU", "ﬁne ﬂow", "日本語 テキスト", "Σας ΣΑΣ", "x" * 50, "a the of"]
        ),
    ),
    min_size=1,
    max_size=8,
)
PATTERNS = [r"(?u)\b\w\w+\b", r"\w+", r"\S+", "[a-zA-Z]{2,}", r"(?u)\b[^\W\d_]+\b", r"\b[a-z]+\b"]


@st.composite
def vectorizers(draw):
    analyzer = draw(st.sampled_from(["word", "word", "char", "char_wb"]))
    least = draw(st.integers(1, 3))
    settings = {
        "analyzer": analyzer,
        "ngram_range": (least, least + draw(st.integers(0, 2))),
        "lowercase": draw(st.booleans()),
        "strip_accents": draw(st.sampled_from([None, "ascii", "unicode"])),
        "binary": draw(st.booleans()),
    }
    if analyzer == "word":
        settings["token_pattern"] = draw(st.sampled_from(PATTERNS))
        settings["stop_words"] = draw(st.sampled_from([None, "english", ["the", "a"]]))
    kind = draw(st.sampled_from([CountVectorizer, TfidfVectorizer, HashingVectorizer]))
    if kind is HashingVectorizer:
        settings |= {"n_features": draw(st.sampled_from([1, 16, 1000])), "alternate_sign": draw(st.booleans())}
    if kind is not CountVectorizer:
        settings["norm"] = draw(st.sampled_from(["l1", "l2", None]))
    if kind is TfidfVectorizer:
        settings |= {"sublinear_tf": draw(st.booleans()), "use_idf": draw(st.booleans())}
    return kind(**settings)


@examples(120)
@hypothesis.given(vectorizer=vectorizers(), texts=TEXTS, new=TEXTS, svd=st.booleans())
def test_texts(vectorizer, texts, new, svd):
    last = [("svd", TruncatedSVD(1, random_state=0))] if svd and len(texts) > 2 else []
    compare(Pipeline([("vectorizer", vectorizer), *last]), texts, None, new)
