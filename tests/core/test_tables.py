"""Tables: what a CSV file says, what is missing, what fitting on one part does to others, and errors with a place."""

import gzip
import json

import numpy as np
import pytest

from phalanx.core.data import tables
from phalanx.core.errors import DataError, RangeError, ShapeError, StateError
from phalanx.core.tensor import Tensor

TEXT = """age, town ,income,rich
31,Ulm,1000,no

,Bonn,2000.5,yes
50,?,NA,no
44,"Ulm, Donau",-3e2,yes
"""


@pytest.fixture
def people(tmp_path):
    (tmp_path / "people.csv").write_text(TEXT)
    return tables.read_csv(tmp_path / "people.csv")


def test_columns_have_their_types_and_rows_their_lines(people):
    assert people.columns == ["age", "town", "income", "rich"] and len(people) == 4
    assert people["age"].dtype == np.float64 and np.isnan(people["age"][1])
    assert people["town"].tolist() == ["Ulm", "Bonn", None, "Ulm, Donau"]
    assert people.lines.tolist() == [2, 4, 5, 6]
    assert people.missing() == {"age": 1, "town": 1, "income": 1}
    assert len(people.drop_missing()) == 2 and len(people.drop_missing(["age"])) == 3
    assert people[["rich", "age"]].columns == ["rich", "age"] and people.drop("town").columns == [
        "age",
        "income",
        "rich",
    ]
    assert people[1:3]["income"].tolist()[0] == 2000.5 and people[people["age"] > 40]["age"].tolist() == [50, 44]
    assert "town" in people and "job" not in people and repr(people).startswith("Table(4 rows: age, town")
    labels, classes = people.labels("rich")
    assert labels.tolist() == [0, 1, 0, 1] and classes == ["no", "yes"]


@pytest.mark.parametrize(
    "options, names",
    [
        ({"header": False}, ["0", "1"]),
        ({"header": ["x", "y"]}, ["x", "y"]),
        ({"header": ["x", "y"], "columns": ["y"]}, ["y"]),
        ({}, ["1", "a"]),
    ],
)
def test_headers(tmp_path, options, names):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf1;a\n2;b\n"))
    assert tables.read_csv(tmp_path / "t.csv.gz", delimiter=";", **options).columns == names


def test_types_may_be_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("zip,size\n01234,3\n99999,x\n")
    assert tables.read_csv(path, types={"zip": "category"})["zip"].tolist() == ["01234", "99999"]
    assert not tables.read_csv(path).is_number("size")
    with pytest.raises(DataError, match=r"t\.csv, line 3, column 'size': 'x' is no number"):
        tables.read_csv(path, types={"size": "number"})
    assert np.isnan(tables.read_csv(path, missing=("x",))["size"][1])


@pytest.mark.parametrize(
    "text, options, words",
    [
        ("a,b\n1,2\n3\n", {}, "line 3: 1 cells, expected 2"),
        ("a,a\n1,2\n", {}, "'a' more than once"),
        ("", {}, "is empty"),
        ("a\n1\n", {"columns": ["b"]}, "no column b; it has a"),
        ("a\n1\n", {"types": {"b": "number"}}, "no column b"),
        ("a\n1\n", {"types": {"a": "float"}}, "number, category"),
        ("a\n\u00e4\n", {"encoding": "ascii"}, "cannot be read"),
    ],
)
def test_files_that_do_not_fit(tmp_path, text, options, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((DataError, RangeError), match=words):
        tables.read_csv(tmp_path / "t.csv", **options)
    with pytest.raises(DataError, match="cannot be read"):
        tables.read_csv(tmp_path / "none.csv")


def test_what_is_no_number_is_named_with_its_place(people):
    with pytest.raises(DataError, match=r"people\.csv, line 4, column 'age': the value is missing; use SimpleImputer"):
        people.numbers(["age"])
    with pytest.raises(DataError, match=r"line 2, column 'town': the value is 'Ulm', no number; use OneHotEncoder"):
        people.numbers(["town"])
    with pytest.raises(DataError, match=r"line 5, column 'town': the label is missing"):
        people.labels("town")
    with pytest.raises(DataError, match=r"line 6, column 'town': .*'Ulm, Donau', none of Ulm"):
        tables.OneHotEncoder(["town"]).fit(people[[0]]).transform(people[[3]])
    with pytest.raises(RangeError, match="no column 'job'"):
        people["job"]
    with pytest.raises(ShapeError, match="equal lengths"):
        tables.Table({"a": [1], "b": [1, 2]})


VALUES = np.array([[1.0, 10.0], [2.0, np.nan], [2.0, 30.0], [7.0, 80.0]])


@pytest.mark.parametrize(
    "strategy, value",
    [("mean", 40.0), ("median", 30.0), ("most_frequent", 10.0), ("constant", -1.0)],
)
def test_filling(strategy, value):
    step = tables.SimpleImputer(strategy, -1.0 if strategy == "constant" else None)
    filled = step.fit_transform(VALUES)
    assert filled[1, 1] == value and (filled[VALUES == VALUES] == VALUES[VALUES == VALUES]).all()
    assert step.transform(np.array([[np.nan, np.nan]]))[0, 1] == value
    assert np.isnan(VALUES[1, 1])


def test_filling_words_and_saying_so(people):
    filled = tables.SimpleImputer("most_frequent", add_indicator=True).fit_transform(people)
    assert filled["town"].tolist()[2] == "Bonn" and filled["town_missing"].tolist() == [0, 0, 1, 0]
    assert "rich_missing" not in filled and filled["age"][1] == 31
    assert tables.SimpleImputer("constant", "?").fit_transform(people)["town"][2] == "?"
    with pytest.raises(DataError, match="words, which have no mean"):
        tables.SimpleImputer("mean", columns=["town"]).fit(people)
    with pytest.raises(DataError, match="no value at all"):
        tables.SimpleImputer().fit(np.full((3, 1), np.nan))
    for wrong in ({"strategy": "mode"}, {"strategy": "constant"}, {"fill_value": 3}):
        with pytest.raises(RangeError):
            tables.SimpleImputer(**wrong)


@pytest.mark.parametrize(
    "step, expected",
    [
        (tables.StandardScaler(), lambda x: (x - np.nanmean(x, 0)) / np.nanstd(x, 0)),
        (tables.StandardScaler(with_mean=False), lambda x: x / np.nanstd(x, 0)),
        (tables.MinMaxScaler((-1, 1)), lambda x: (x - np.nanmin(x, 0)) / (np.nanmax(x, 0) - np.nanmin(x, 0)) * 2 - 1),
        (
            tables.RobustScaler(),
            lambda x: (x - np.nanmedian(x, 0)) / (np.nanpercentile(x, 75, 0) - np.nanpercentile(x, 25, 0)),
        ),
    ],
)
def test_scaling_learns_from_one_part_and_goes_back(step, expected):
    scaled = step.fit_transform(VALUES)
    np.testing.assert_allclose(scaled, expected(VALUES))
    np.testing.assert_allclose(step.inverse_transform(scaled), VALUES)
    again = type(step)()
    again.load_state_dict(json.loads(json.dumps(step.state_dict())))
    other = np.array([[3.0, 7.0]], np.float32)
    assert (again.transform(other) == step.transform(other)).all() and again.transform(other).dtype == np.float32
    assert (step.fit_transform(Tensor(np.ones((3, 1), np.float32))) == step.transform(np.ones((1, 1)))).all()


def test_encoding():
    towns = tables.Table({"town": ["Ulm", "Bonn", "Ulm", None], "size": [1, 2, 3, 4]})
    hot = tables.OneHotEncoder(handle_unknown="ignore").fit(towns)
    coded = hot.transform(towns)
    assert coded.columns == ["town=Bonn", "town=Ulm", "size"]
    assert coded.numbers().tolist() == [[0, 1, 1], [1, 0, 2], [0, 1, 3], [0, 0, 4]]
    assert hot.transform(tables.Table({"town": ["Rom"], "size": [0]})).numbers().tolist() == [[0, 0, 0]]
    assert tables.OneHotEncoder(["size"], drop="first").fit_transform(towns).columns == [
        "town",
        *(f"size={i}.0" for i in (2, 3, 4)),
    ]
    places = tables.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=9).fit_transform(towns)
    assert places["town"].tolist() == [1, 0, 1, 9]
    with pytest.raises(DataError, match="row 3, column 'town': the value is missing"):
        tables.OneHotEncoder().fit_transform(towns)


def test_a_pipeline_is_fitted_on_the_training_part_alone(people, tmp_path):
    rng = np.random.default_rng(0)
    table = tables.Table(
        {
            "a": np.where(rng.random(200) < 0.1, np.nan, rng.normal(5, 3, 200)),
            "b": rng.choice(["x", "y", "z"], 200),
            "label": rng.choice(["no", "yes"], 200, p=[0.9, 0.1]),
        }
    )
    train, test = table.split([0.8, 0.2], stratify="label", seed=1)
    assert abs((test["label"] == "yes").mean() - (table["label"] == "yes").mean()) < 0.03
    pipe = tables.Pipeline(
        [
            tables.SimpleImputer("median", add_indicator=True),
            tables.StandardScaler(["a"]),
            tables.OneHotEncoder(),
        ],
        target="label",
    )
    fitted = pipe.fit_transform(train)
    assert fitted.columns == ["a", "a_missing", "b=x", "b=y", "b=z", "label"]
    np.testing.assert_allclose([fitted["a"].mean(), fitted["a"].std()], [0, 1], atol=1e-12)
    data = pipe.transform(test).dataset(target="label")
    assert data.arrays[0].shape == (40, 5) and data.arrays[0].dtype == np.float32 and data.arrays[1].dtype == np.int64
    other = tables.Pipeline([tables.SimpleImputer(), tables.StandardScaler(["a"]), tables.OneHotEncoder()], "label")
    other.load_state_dict(json.loads(json.dumps(pipe.state_dict())))
    assert (other.transform(test).dataset("label").arrays[0] == data.arrays[0]).all()
    with pytest.raises(StateError, match="not fitted"):
        tables.StandardScaler().transform(test)
    with pytest.raises(StateError, match="3 steps"):
        tables.Pipeline([]).load_state_dict(pipe.state_dict())
    with pytest.raises(StateError, match="OneHotEncoder was given to a StandardScaler"):
        tables.StandardScaler().load_state_dict(pipe.state_dict()["steps"][2])
    with pytest.raises(DataError, match="which table lacks"):
        pipe.transform(test.drop("a"))
    with pytest.raises(DataError, match="holds words, StandardScaler expects numbers"):
        pipe.steps[1].transform(test.with_column("a", test["b"]))
    with pytest.raises(DataError, match="words, which cannot be scaled"):
        tables.StandardScaler(["b"]).fit(test)
