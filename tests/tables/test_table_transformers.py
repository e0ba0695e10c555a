"""Each transformer of scikit-learn through a student file, and those that cannot go into one."""

import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import NMF, PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.feature_selection import (
    RFE,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    VarianceThreshold,
)  # fmt: skip
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
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
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from through_file import expected, file_of, loaded

from distill.codecs import table
from distill.codecs.table import numeric
from distill.codecs.table.text import document_counts
from distill.runtime.table.numeric import normal_quantiles
from distill.runtime.table.text import murmur_hash
from distill.translation.text import known_pattern
from mbn.preprocessing import ImageMoments

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sklearn")

random = np.random.default_rng(0)
X = random.normal(size=(60, 4)) * [1, 10, 0.1, 100] + [0, 5, 1, -30]
y = np.arange(60) % 3
NEW = np.vstack([X[:10], X[10:30] * 3, X[30:40] * 0.5])
HOLES, NEW_HOLES = X.copy(), NEW.copy()
HOLES[::7, 0], HOLES[::5, 2], NEW_HOLES[::3, 0], NEW_HOLES[::4, 2] = (np.nan,) * 4


def name_of(transformer):
    # Without addresses of functions, which differ between the processes of a test run
    return re.sub(r" at 0x[0-9a-f]+", "", repr(transformer)).replace("\n", "").replace(" ", "")[:90]


def check(transformer, rows, new, exact=True, y=y):
    transformer = clone(transformer).fit(rows, y)
    wanted = expected(transformer, new)
    found = loaded(transformer)(new)
    if exact:
        assert_array_equal(found, wanted)
    else:
        assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * np.nanmax(np.abs(wanted)))


@pytest.mark.parametrize("transformer", [
    StandardScaler(), StandardScaler(with_mean=False, with_std=False), MinMaxScaler((-1, 2), clip=True), MaxAbsScaler(),
    RobustScaler(unit_variance=True), QuantileTransformer(n_quantiles=20), VarianceThreshold(),
    SimpleImputer(), SimpleImputer(strategy="median", add_indicator=True), SimpleImputer(strategy="most_frequent"),
    SimpleImputer(strategy="constant", fill_value=-1.0), MissingIndicator(), MissingIndicator(features="all"),
    FunctionTransformer(), FunctionTransformer(np.abs), FunctionTransformer(np.isnan),
    make_pipeline(StandardScaler(), SimpleImputer(missing_values=np.nan), FrozenEstimator(MinMaxScaler().fit(X))),
], ids=name_of)  # fmt: skip
def test_numbers_with_missing_values_have_the_same_bits(transformer):
    check(transformer, HOLES, NEW_HOLES)


@pytest.mark.parametrize("transformer", [
    KBinsDiscretizer(4, strategy="uniform"), Binarizer(threshold=0.3),
    KBinsDiscretizer(5, encode="ordinal", strategy="uniform"),
    KBinsDiscretizer(3, encode="onehot-dense", strategy="kmeans"), PolynomialFeatures(3),
    PolynomialFeatures((2, 3), interaction_only=True), PolynomialFeatures((2, 3), include_bias=False),
    PolynomialFeatures(0), PolynomialFeatures((0, 1), interaction_only=True), PolynomialFeatures(5),
    SelectKBest(k=2), SelectPercentile(percentile=50), SelectFpr(alpha=0.9), SelectFdr(alpha=0.99),
    SelectFwe(alpha=0.99),
    GenericUnivariateSelect(mode="k_best", param=3), SelectFromModel(LogisticRegression(max_iter=1000)),
    RFE(LogisticRegression(max_iter=1000), n_features_to_select=2), SimpleImputer(missing_values=0.0, strategy="mean"),
    *(FunctionTransformer(getattr(np, name)) for name in ("tanh", "sign", "floor", "rint", "square", "sin", "arcsinh")),
    *(SplineTransformer(degree=degree, n_knots=5, extrapolation=beyond, include_bias=bias)
      for degree in (1, 2, 3) for beyond in ("constant", "linear", "continue", "periodic") for bias in (True, False)),
    SplineTransformer(degree=0, extrapolation="linear"), SplineTransformer(knots="quantile", extrapolation="linear"),
    Normalizer("max"),
], ids=name_of)  # fmt: skip
def test_numbers_have_the_same_bits(transformer):
    check(transformer, X, NEW)


@pytest.mark.parametrize("transformer", [
    PCA(3), PCA(2, whiten=True), IncrementalPCA(2), TruncatedSVD(2), Normalizer(), Normalizer("l1"), PowerTransformer(),
    PowerTransformer(standardize=False), QuantileTransformer(n_quantiles=30, output_distribution="normal"),
    GaussianRandomProjection(3, random_state=0), SparseRandomProjection(3, random_state=0),
    FunctionTransformer(np.exp2), make_pipeline(PowerTransformer(), PolynomialFeatures(2), PCA(4)),
], ids=name_of)  # fmt: skip
def test_numbers_agree_where_sums_are_added_in_another_order(transformer):
    check(transformer, X, NEW / 10, exact=False)


def test_box_cox_and_positive_functions():
    check(PowerTransformer("box-cox"), np.abs(HOLES) + 0.1, np.abs(NEW_HOLES) + 0.1, exact=False)
    for function in (np.log1p, np.sqrt, np.log, np.expm1, np.reciprocal, np.cbrt):
        check(FunctionTransformer(function), np.abs(X) + 0.1, np.abs(NEW) / 100 + 0.1)
    run = loaded(PowerTransformer("box-cox").fit(np.abs(X) + 0.1))
    with pytest.raises(ValueError, match=r"row 1 of X, column 2: the value 0.0 is not above zero, .* Yeo-Johnson"):
        run([[1.0, 1, 1, 1], [1, 1, 0, 1]])


def test_splines_of_missing_values_and_beyond_the_knots():
    if "handle_missing" in SplineTransformer().get_params():
        check(SplineTransformer(handle_missing="zeros", extrapolation="linear"), HOLES, NEW_HOLES)
    run = loaded(SplineTransformer(extrapolation="error").fit(X))
    assert_array_equal(run(X), SplineTransformer(extrapolation="error").fit_transform(X))
    with pytest.raises(
        ValueError, match=r"row 0 of X, column 1: the value 900.0 is beyond the knots, and extrapolation='error'"
    ):
        run([[0.0, 900, 1, 0]])
    with pytest.raises(ValueError, match=r"row 0 of X, column 2: the value is missing, .* handle_missing='error'"):
        run([[0.0, 5, np.nan, 0]])


def test_images_in_a_column_transformer():
    images = np.abs(random.normal(size=(10, 12)))
    check(ColumnTransformer([("image", ImageMoments((3, 4)), slice(0, 12))]), images, images[:4], y=None)


@pytest.mark.parametrize("transformer", [
    KBinsDiscretizer(3, strategy="uniform"), Binarizer(), PolynomialFeatures(), Normalizer(),
    PCA(2), TruncatedSVD(2), SelectKBest(k=2), SimpleImputer(missing_values=0),
], ids=name_of)  # fmt: skip
def test_steps_that_take_no_missing_values_name_them(transformer):
    run = loaded(clone(transformer).fit(X, y))
    with pytest.raises(
        ValueError, match="row 1 of X, column 2: the value is missing, and the next step takes no missing"
    ):
        run(np.where(np.arange(4) == 2, [[1.0], [np.nan]], X[:2]))


# categories

FRAME = pd.DataFrame(
    {
        "text": pd.Series(["a", "b", "ü", None] * 10),
        "float": np.tile([1.0, 2, np.nan, 3, 1], 8),
        "integer": np.tile([1, 2, 3, 2**60], 10),
        "flag": np.tile([True, False], 20),
        "object": np.tile(np.array(["x", None, "z", np.nan, "x"], dtype=object), 8),
        "binary": np.tile(["yes", "no"], 20),
    }
)
UNKNOWN = FRAME.iloc[::3].copy()
UNKNOWN.iloc[1, 0], UNKNOWN.iloc[2, 4], UNKNOWN.iloc[3, 2], UNKNOWN.iloc[4, 1] = "new", "new", 2**60 + 1, -0.5


@pytest.mark.parametrize("encoder", [
    OneHotEncoder(handle_unknown="ignore"), OneHotEncoder(drop="first", handle_unknown="ignore"),
    OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False),
    OneHotEncoder(drop=["b", 2.0, 1, False, "z", "no"], handle_unknown="ignore"),
    OneHotEncoder(min_frequency=9, handle_unknown="infrequent_if_exist"),
    OneHotEncoder(min_frequency=0.25, handle_unknown="ignore", drop="first"),
    OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist", drop="first"),
    OneHotEncoder(max_categories=2, handle_unknown="infrequent_if_exist"),
    OneHotEncoder(max_categories=1, handle_unknown="ignore"),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=2,
                   encoded_missing_value=-5),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=99, min_frequency=9, dtype=np.float32),
    TargetEncoder(), TargetEncoder(target_type="continuous", smooth=1.0),
], ids=name_of)  # fmt: skip
def test_categories_have_the_same_bits(encoder):
    check(encoder, FRAME, FRAME, y=np.arange(40) % 3)
    check(encoder, FRAME, UNKNOWN, y=np.arange(40) % 3)


def test_given_categories_and_target_of_two_classes():
    given = OneHotEncoder(categories=[["z", "y", "x"]], handle_unknown="ignore")
    check(given, pd.DataFrame({"c": list("xyzx")}), pd.DataFrame({"c": list("zzw")}), y=None)
    check(TargetEncoder(), FRAME[["text"]], UNKNOWN[["text"]], y=(np.arange(40) % 4 == 0).astype(int))
    many = OneHotEncoder(handle_unknown="ignore").fit(np.arange(20_000)[:, None])
    assert len(table.encode(table.TableStep(1, (numeric.Complete(),)))) < 10
    data = file_of(many)
    assert len(data) < 20_000 * 4 + 100  # consecutive integers take a few bytes
    assert loaded(many)(np.array([[19_999], [7]])).argmax(axis=1).tolist() == [19_999, 7]


def test_imputers_of_text():
    rows = np.array([["a", None], ["b", "x"], ["b", None], [np.nan, "x"]], dtype=object)
    for imputer in (
        SimpleImputer(strategy="most_frequent"),
        SimpleImputer(strategy="constant", fill_value="?", add_indicator=True),
        SimpleImputer(strategy="most_frequent", missing_values="b"),
    ):
        rows_of = (
            rows if imputer.missing_values != "b" else np.array([["a", "x"], ["b", "x"], ["b", "y"]], dtype=object)
        )
        chain = make_pipeline(imputer, OneHotEncoder(handle_unknown="ignore")).fit(rows_of)
        assert_array_equal(loaded(chain)(rows_of), expected(chain, rows_of))
    chain = make_pipeline(SimpleImputer(missing_values=None, strategy="most_frequent"), OrdinalEncoder())
    rows = np.array([["a"], ["a"], [None]], dtype=object)
    check(chain, rows, rows, y=None)


def test_empty_columns_of_imputers():
    rows = np.column_stack([np.full(4, np.nan), [1.0, np.nan, 3, 4]])
    for keep in (False, True):
        check(SimpleImputer(keep_empty_features=keep, add_indicator=True), rows, rows, y=None)


# columns and unions


def test_column_transformers():
    mixed = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include="number")),
            ("text", OneHotEncoder(handle_unknown="ignore"), ["text", "binary"]),
            ("dropped", "drop", ["object"]),
            (
                "nested",
                ColumnTransformer([("again", "passthrough", ["flag"])], remainder=StandardScaler()),
                ["flag", "integer"],
            ),
            ("nothing", StandardScaler(), []),
        ],
        transformer_weights={"text": 0.5},
        remainder="passthrough",
    )
    check(mixed, FRAME, UNKNOWN, y=None)
    by_index = ColumnTransformer(
        [
            ("slice", StandardScaler(), slice(1, 3)),
            ("mask", "passthrough", np.array([True, False, False, True])),
            ("last", MaxAbsScaler(), [-1]),
        ]
    )
    check(by_index, X, NEW, y=None)
    check(
        FeatureUnion([("a", by_index), ("b", "passthrough"), ("c", "drop")], transformer_weights={"a": 2.0}),
        X,
        NEW,
        y=None,
    )


# texts

TEXTS = [
    "The quick brown fox, jumped! over the lazy dog",
    "Ünïcode straße déjà vu  the the fox",
    "",
    "a b c 12 34 x_y fox dog",
    "tabs\t\tand   spaces\nnew lines",
    "ﬁne İstanbul ΑΣ Σας e\u0301 日本語 テキスト don't e-mail",
] * 2


@pytest.mark.parametrize("vectorizer", [
    CountVectorizer(), CountVectorizer(binary=True, token_pattern="[a-zA-Z]{2,}"),
    CountVectorizer(token_pattern=r"\S+", lowercase=False),
    CountVectorizer(vocabulary=["fox", "the", "new lines"], ngram_range=(1, 2), stop_words=["new"]),
    CountVectorizer(stop_words="english", vocabulary=["the", "fox"]), CountVectorizer(max_features=5),
    TfidfVectorizer(ngram_range=(1, 3)), TfidfVectorizer(sublinear_tf=True, stop_words="english", ngram_range=(1, 2)),
    TfidfVectorizer(analyzer="char", ngram_range=(1, 3), strip_accents="unicode", norm="l1"),
    TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), strip_accents="ascii"),
    TfidfVectorizer(use_idf=False, norm=None),
    TfidfVectorizer(analyzer="char_wb", ngram_range=(6, 7)), TfidfVectorizer(token_pattern=r"(?u)\b[^\W\d_]{3,}\b"),
    HashingVectorizer(n_features=64), HashingVectorizer(n_features=2**20, norm=None, binary=True),
    HashingVectorizer(n_features=100, alternate_sign=False, norm="l1", analyzer="char", ngram_range=(2, 3)),
    make_pipeline(CountVectorizer(), TfidfTransformer(norm="l1")),
    make_pipeline(HashingVectorizer(n_features=32), TfidfTransformer()),
    make_pipeline(TfidfVectorizer(), SelectKBest(k=7)),
    FeatureUnion([("words", TfidfVectorizer()), ("characters", CountVectorizer(analyzer="char"))]),
], ids=name_of)  # fmt: skip
def test_texts_have_the_same_bits(vectorizer):
    wide = getattr(vectorizer, "n_features", 0) == 2**20
    check(
        vectorizer,
        TEXTS,
        ["fox fox fox dog Dog", "İstanbul ΑΣ 日本語"] if wide else [*TEXTS, "fox fox fox dog Dog", "zzz"],
        y=np.arange(12) % 2,
    )


def test_texts_and_topics_agree():
    check(make_pipeline(TfidfVectorizer(), TruncatedSVD(3, random_state=0), Normalizer()), TEXTS, TEXTS, exact=False)


def test_vocabularies_are_compact():
    # A tenth of these words' letters are their own: the others are shared with the word before
    texts = [f"word{index} another{index}" for index in range(1000)]
    vectorizer = CountVectorizer().fit(texts)
    assert len(table.encode(table.TableStep(1, _operations(vectorizer), True))) < 2 * 1000 * 2


@pytest.mark.parametrize("smooth", [True, False])
def test_inverse_document_frequencies_are_stored_as_numbers_of_documents(smooth):
    words = [f"w{index}" for index in range(400)]
    texts = [
        " ".join(word for index, word in enumerate(words) if row % (index + 2) == 0 or index == row)
        for row in range(900)
    ]
    vectorizer = TfidfVectorizer(min_df=3, smooth_idf=smooth).fit(texts)
    total, counts = document_counts(vectorizer.idf_)
    assert total == 900 + smooth and counts.min() >= 3
    counted = CountVectorizer(vocabulary=vectorizer.vocabulary_).fit(texts)
    assert len(file_of(vectorizer)) - len(file_of(counted)) < 500  # a byte for each of most words
    assert_array_equal(loaded(vectorizer)(texts[:20]), expected(vectorizer, texts[:20]))
    assert document_counts(random.normal(size=5)) is None and document_counts(np.array([np.inf, 1])) is None


def _operations(transformer):
    from distill import translation

    return translation.operations_of(transformer, "it")


# pieces


def test_normal_quantiles_are_those_of_scipy():
    from scipy.special import ndtri

    fractions = np.concatenate([np.linspace(1e-9, 1 - 1e-9, 2001), 10.0 ** -np.arange(1, 300), [0, 1]])
    assert_allclose(normal_quantiles(fractions), ndtri(fractions), rtol=1e-12)


def test_hashes_are_those_of_scikit_learn():
    from sklearn.utils import murmurhash3_32

    for word in ("", "a", "ab", "abc", "abcd", "straße", "日本語テキスト", "x" * 100):
        assert murmur_hash(word.encode()) == murmurhash3_32(word, seed=0)


@pytest.mark.parametrize(("pattern", "known"), [
    (r"(?u)\b\w\w+\b", ("letters, digits and underscores", 2, True)),
    (r"\b\w{3,}\b", ("letters, digits and underscores", 3, True)),
    (r"\w+", ("letters, digits and underscores", 1, False)),
    (r"[^\s]+", ("no blanks", 1, False)),
    (r"[A-Za-z][A-Za-z]{2,}", ("ASCII letters", 3, False)),
    (r"(?u)\b\w\w+", None), (r"\b\S+\b", None), (r"(a+)+b", None), (r"\w", None), (r"\w*", None),
    (r"\w{0,}", None), ("", None),
])  # fmt: skip
def test_known_patterns(pattern, known):
    assert known_pattern(pattern) == known


# what cannot go into a file


def shout(text):
    return text.upper()


@pytest.mark.parametrize(("transformer", "rows", "message"), [
    (CountVectorizer(preprocessor=shout), TEXTS, r"'it' \(CountVectorizer\) has preprocessor=shout, and a student"),
    (CountVectorizer(tokenizer=str.split, token_pattern=None), TEXTS, "has tokenizer=split"),
    (CountVectorizer(analyzer=str.split), TEXTS, "has analyzer=split"),
    (TfidfVectorizer(strip_accents=shout), TEXTS, "has strip_accents=shout"),
    (CountVectorizer(token_pattern=r"(?u)\b(\w\w+)ing\b|(?:\d+)"), ["going being"],
     r"has token_pattern='.*', and a student file contains no regular"),
    (FunctionTransformer(shout), X, r"has the function shout, which cannot .* it may be numpy's log1p"),
    (FunctionTransformer(np.clip, kw_args={"a_min": 0, "a_max": 1}), X, "has the function clip with kw_args="),
    (FunctionTransformer(lambda rows: rows), X, "has the function <lambda>"),
    (KNNImputer(), X, r"step 'it' \(KNNImputer\) cannot go into .*: the steps .* OneHotEncoder, .* SelectKBest"),
    (NMF(2, max_iter=500), np.abs(X), r"\(NMF\) cannot go into a student file"),
    (KBinsDiscretizer(2, dtype=np.float32, strategy="uniform"), X, "has dtype=.*float32.*; fit it with dtype=None"),
    (ColumnTransformer([("knn", KNNImputer(), [0])]), X, r"Transformer\), transformer 'knn' \(KNNImputer\) cannot"),
    (OneHotEncoder(), np.array([[b"a"], [b"b"]]), r"has the value b'a' \(bytes\)"),
    (OneHotEncoder(), np.array([[2**64]], dtype=object), "integer 18446744073709551616, beyond 64 bits"),
    (OneHotEncoder(), pd.DataFrame({"day": pd.to_datetime(["2020-01-01"])}), "has the value .*; convert the column"),
    (DictVectorizer(), [{"a": 1}], r"\(DictVectorizer\) cannot go into a student file"),
], ids=lambda value: name_of(value) if hasattr(value, "fit") else "")  # fmt: skip
def test_what_cannot_go_into_a_file_is_named(transformer, rows, message):
    transformer.fit(rows)
    with pytest.raises(TypeError, match=message):
        file_of(transformer)


def test_quantiles_of_sparse_rows_are_refused():
    normal = QuantileTransformer(n_quantiles=5, output_distribution="normal")
    binned = KBinsDiscretizer(3, strategy="uniform")
    # It leaves the zeros of sparse rows as they are, and those of dense ones not
    for chain in (
        make_pipeline(binned, normal),
        make_pipeline(FeatureUnion([("a", binned), ("b", "passthrough")]), MaxAbsScaler(), normal),
        make_pipeline(ColumnTransformer([("a", binned, [0, 1])], sparse_threshold=1.0), normal),
    ):
        with pytest.raises(TypeError, match=r"\(QuantileTransformer\) comes after a step that returns a sparse matrix"):
            file_of(chain.fit(np.abs(X)))
    check(make_pipeline(KBinsDiscretizer(3, strategy="uniform", encode="onehot-dense"), normal), X, NEW, exact=False)
    check(make_pipeline(binned, QuantileTransformer(n_quantiles=5)), X, NEW)
    check(make_pipeline(binned, TruncatedSVD(2, random_state=0), normal), X, X, exact=False)


def test_sparse_rows_between_steps_change_nothing_else():
    categories = random.integers(0, 4, (60, 3)).astype(float)
    for degree in (2, (2, 3), 4):
        check(make_pipeline(OneHotEncoder(drop="first"), PolynomialFeatures(degree)), categories, categories)
    one_hot = OneHotEncoder()
    for steps in (
        (one_hot, Normalizer()), (one_hot, TfidfTransformer()), (one_hot, MissingIndicator(features="all")),
        (one_hot, StandardScaler(with_mean=False), MaxAbsScaler(), VarianceThreshold(), Binarizer()),
        (one_hot, FunctionTransformer(np.log1p, accept_sparse=True)), (one_hot, SimpleImputer()),
    ):  # fmt: skip
        check(make_pipeline(*steps), categories, categories[:20])
    for beyond in ("constant", "linear", "continue", "periodic"):
        check(SplineTransformer(sparse_output=True, extrapolation=beyond), X, NEW)


def test_subclasses_are_refused():
    class Shifted(OneHotEncoder):
        def transform(self, X):
            return super().transform(X) + 1

    with pytest.raises(TypeError, match="Shifted"):
        file_of(Shifted().fit([["a"]]))


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_columns_without_any_number_are_named():
    rows = np.column_stack([X[:, 0], np.full(60, np.nan)])
    for transformer in (QuantileTransformer(n_quantiles=5), MaxAbsScaler()):
        with np.errstate(all="ignore"), pytest.raises(ValueError, match="column that was missing in all rows"):
            file_of(transformer.fit(rows))


def test_float32_halves_fitted_numbers_and_keeps_categories():
    quantiles = QuantileTransformer(n_quantiles=50).fit(X)
    long, short = file_of(quantiles), file_of(quantiles, single=True)
    assert len(long) - len(short) > 4 * 4 * 50 - 100
    assert_allclose(loaded(quantiles, single=True)(NEW), quantiles.transform(NEW), atol=1e-5)
    encoder = OneHotEncoder(handle_unknown="ignore").fit([[0.1], [1 / 3]])
    assert_array_equal(loaded(encoder, single=True)([[0.1], [1 / 3], [0.3]]), [[1, 0], [0, 1], [0, 0]])
