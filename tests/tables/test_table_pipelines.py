"""Pipelines of tables and texts with students: files, command line, ONNX, and what is refused."""

import io

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from numpy.testing import assert_array_equal
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PowerTransformer, StandardScaler

from distill import CodebookCompressor, Distiller, StudentFileError, load, save, to_c, to_onnx
from distill.__main__ import main
from distill.codecs import container
from distill.codecs.container import with_steps
from distill.codecs.preprocessing import Step
from distill.codecs.table import TableStep
from distill.codecs.table.numeric import Polynomial
from distill.codecs.table.structure import Select, Union
from distill.pipeline import to_bytes
from distill.web import make_page

pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

random = np.random.default_rng(0)
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
FRAME = pd.DataFrame(
    {
        "age": np.where(np.arange(120) % 9 == 0, np.nan, random.normal(40, 10, 120)),
        "income": random.lognormal(10, 0.5, 120),
        "city": random.choice(["Berlin", "Paris", "Rome"], 120),
        "id": np.arange(120),
    }
)
NEW = FRAME[::3].assign(city=["Oslo", "Rome"] * 20)


def columns():
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), PowerTransformer()), ["age", "income"]),
            ("cities", OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ]
    )


def student():
    return Distiller(KMeans(4, n_init=1, random_state=0), **SMALL)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline([("columns", columns()), ("student", student())]).fit(FRAME)


def test_predictions_are_those_of_the_pipeline(pipeline, tmp_path):
    save(pipeline, tmp_path / "a.student")
    loaded = load(tmp_path / "a.student")
    for rows in (FRAME, NEW, NEW[:1]):
        assert_array_equal(loaded.predict_proba(rows), pipeline.predict_proba(rows))
        assert_array_equal(loaded.predict(rows), pipeline.predict(rows))
    assert loaded.n_features_in_ == 4
    assert_array_equal(loaded.feature_names_in_, FRAME.columns)
    assert sum(loaded.report["bytes"].values()) == (tmp_path / "a.student").stat().st_size
    assert loaded.report["bytes"]["table"] < 150
    assert load(io.BytesIO(to_bytes(pipeline))).score(FRAME, pipeline.predict(FRAME)) == 1


def test_compressors_searches_and_loaded_students_end_a_pipeline():
    small = CodebookCompressor(student(), bits=3, max_iter=1, random_state=0)
    compressed = make_pipeline(columns(), StandardScaler(), small).fit(FRAME)
    assert_array_equal(load(to_bytes(compressed)).predict(NEW), compressed.predict(NEW))
    search = GridSearchCV(
        make_pipeline(columns(), student()), {"distiller__max_iter": [2]}, cv=2, error_score="raise"
    ).fit(FRAME)
    assert_array_equal(load(to_bytes(search)).predict(NEW), search.best_estimator_.predict(NEW))
    # A file with a table of its own, after further steps
    inner = load(to_bytes(make_pipeline(PowerTransformer(), student()).fit(FRAME[["income", "id"]].to_numpy())))
    outer = Pipeline([("fill", SimpleImputer().fit(FRAME[["age", "id"]])), ("inner", inner)])
    assert_array_equal(load(to_bytes(outer)).predict(FRAME[["age", "id"]]), outer.predict(FRAME[["age", "id"]]))
    assert to_bytes(Pipeline([("inner", inner)])) == inner.to_bytes()


def test_texts():
    texts = [
        f"{one} and {other}" for one in ("red wine", "blue sea", "old code") for other in ("cork", "boat", "loop")
    ] * 6
    for vectorizer in (
        TfidfVectorizer(),
        FeatureUnion([("w", TfidfVectorizer()), ("c", TfidfVectorizer(analyzer="char"))]),
    ):
        topics = make_pipeline(vectorizer, student()).fit(texts)
        loaded = load(to_bytes(topics))
        for rows in (texts, ["the red sea", "nothing"], pd.Series(texts[:2])):
            assert_array_equal(loaded.predict_proba(rows), topics.predict_proba(rows))


def test_scalers_alone_stay_in_the_section_that_all_versions_read():
    numbers = FRAME[["income", "id"]]
    plain = make_pipeline(StandardScaler(), student()).fit(numbers)
    sections = [kind for kind, _ in container.split(to_bytes(plain))[1]]
    assert sections[0] == 0 and 5 not in sections
    powered = make_pipeline(StandardScaler(), PowerTransformer(), student()).fit(numbers)
    assert [kind for kind, _ in container.split(to_bytes(powered))[1]][:2] == [5, 1]


def test_tables_come_first_so_that_older_versions_name_their_section(pipeline):
    # They refuse the first kind that they do not know, as this version refuses kind 9
    data = to_bytes(pipeline)
    header, sections = container.split(data)
    assert sections[0][0] == 5 and data[len(header)] == 5
    assert data[4] == 1


def test_steps_must_fit_together(pipeline):
    plain = container.encode(container.decode(student().fit(FRAME[["income", "id"]]).to_bytes()).network)
    table = TableStep(3, (Select((0, 2)),))
    assert load(with_steps(plain, 3, [table, Step("add", np.array(1.0))], None)).n_features_in_ == 3
    with pytest.raises(ValueError, match="a table is the first step before a network"):
        with_steps(plain, 2, [Step("add", np.array(1.0)), table], None)
    with pytest.raises(StudentFileError, match="the table of the file leads to 3 inputs, the network has 2"):
        with_steps(plain, 3, [TableStep(3, (Select((0, 2, 1)),))], None)
    with pytest.raises(StudentFileError, match="too many columns"):
        with_steps(plain, 12, [TableStep(12, (Polynomial(0, 32),))], None)
    with pytest.raises(StudentFileError, match="more than 32"):
        nested = (Select((0, 1)),)
        for _ in range(40):
            nested = (Union((nested,)),)
        with_steps(plain, 3, [TableStep(3, nested)], None)


def test_other_languages_refuse_a_table(pipeline):
    with pytest.raises(ValueError, match="the step 'table' before the network has no form in C yet"):
        to_c(pipeline)
    with pytest.raises(ValueError, match="section 5 of its file"):
        make_page(to_bytes(pipeline))


def test_what_cannot_take_a_table_says_so(pipeline):
    loaded = load(to_bytes(pipeline))
    with pytest.raises(
        TypeError, match=r"begins with a table \(impute, power, .* 'one-hot' has text, such as 'Berlin', and"
    ):
        to_onnx(pipeline)
    with pytest.raises(TypeError, match="put the compressor into the pipeline"):
        CodebookCompressor(loaded, max_iter=1).fit(FRAME[["age", "income"]].fillna(0), loaded.predict(FRAME))


def test_command_line(pipeline, tmp_path, capsys):
    save(pipeline, tmp_path / "a.student")
    assert main(["info", str(tmp_path / "a.student")]) == 0
    assert "table (impute, power, scale, one-hot), of 4 features" in capsys.readouterr().out
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(NEW.assign(more=1)), tmp_path / "rows.parquet")
    assert main(["predict", str(tmp_path / "a.student"), str(tmp_path / "rows.parquet")]) == 0
    assert capsys.readouterr().out.split() == [str(label) for label in pipeline.predict(NEW)]
    NEW.to_csv(tmp_path / "rows.csv", index=False)
    assert main(["predict", str(tmp_path / "a.student"), str(tmp_path / "rows.csv")]) == 2
    assert "reads such tables from Parquet; or predict in Python" in capsys.readouterr().err
    numbers = make_pipeline(PowerTransformer(), student()).fit(FRAME[["income", "id"]])
    save(numbers, tmp_path / "b.student")
    FRAME[["id", "income"]].to_csv(tmp_path / "numbers.csv", index=False)
    assert main(["predict", str(tmp_path / "b.student"), str(tmp_path / "numbers.csv")]) == 0
    assert capsys.readouterr().out.split() == [str(label) for label in numbers.predict(FRAME[["income", "id"]])]
