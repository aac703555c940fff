"""Objectives: what they compute, what they refuse, and that they always give finite values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine.errors import ConfigError
from aitems_engine.ranking import Objective

COLUMNS = {
    "pctr": np.array([0.5, 0.1, 0.0], np.float32),
    "pcvr": np.array([0.5, 1.0, 0.2], np.float32),
    "price": np.array([100.0, np.nan, 0.0], np.float32),
    "bid": np.array([0.0, 2.0, 3.0]),
}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("pctr", [0.5, 0.1, 0.0]),
        ("pctr * pcvr * price", [25.0, 0.0, 0.0]),
        ("pctcvr", [0.25, 0.1, 0.0]),
        ("  max(pctr * bid,\n 0.3) ", [0.3, 0.3, 0.3]),
        ("-pctr + +1", [0.5, 0.9, 1.0]),
        ("2 ** 3", [8.0, 8.0, 8.0]),
        ("pcvr ** -1", [2.0, 1.0, 5.0]),
        ("pctr ** .5 - sqrt(pctr)", [0.0, 0.0, 0.0]),
        ("log1p(bid) / log1p(2)", [0.0, 1.0, math.log(4) / math.log(3)]),
        ("min(pctr, pcvr, .15) + abs(-1)", [1.15, 1.1, 1.0]),
        ("(pctr - 1) * 2 ** 2", [-2.0, -3.6, -4.0]),
    ],
)
def test_values(text: str, values: list[float]) -> None:
    found, _ = Objective.parse(text)(COLUMNS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "finite"),
    [
        ("1 / bid", [False, True, True]),
        ("pctr / 0", [False, False, False]),
        ("log1p(-2 * pcvr)", [False, False, True]),
        ("price", [True, False, True]),
        ("(1e12 * bid + 1) ** 8 ** 1", None),
        ("sqrt(0 - bid)", [True, False, False]),
        ("((((1e12 * bid) ** 8) ** 8) ** 8)", [True, False, False]),
    ],
)
def test_what_is_not_finite_is_flagged_and_zero(text: str, finite: list[bool] | None) -> None:
    if finite is None:
        with pytest.raises(ConfigError, match="a number from -8 to 8"):
            Objective.parse(text)
        return
    values, problem = Objective.parse(text)(COLUMNS)
    assert np.isfinite(values).all()
    assert (values[~np.array(finite)] == 0).all()
    assert f"no finite value for {3 - sum(finite)} of 3 candidates" in problem


def test_a_column_that_is_not_there() -> None:
    objective = Objective.parse("pctr * margin")
    assert objective.columns == {"pctr", "margin"}
    values, problem = objective(COLUMNS)
    assert values.tolist() == [0, 0, 0]
    assert problem.endswith("there is no column margin")


def test_no_candidates() -> None:
    values, problem = Objective.parse("1 / pctr")({"pctr": np.zeros(0)})
    assert (values.shape, problem) == ((0,), "")


def test_columns_are_left_as_they_are() -> None:
    before = {name: values.copy() for name, values in COLUMNS.items()}
    Objective.parse("price")(COLUMNS)
    for name, values in before.items():
        np.testing.assert_array_equal(COLUMNS[name], values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a formula"),
        (None, "must be a formula"),
        (3, "must be a formula"),
        ("pctr *", "character"),
        ("pctr price", "not a formula"),
        ("pctr; price", "not a formula"),
        ("x = 1", "not a formula"),
        ("(" * 400, "not a formula"),
        ("a" * 501, "501 characters"),
        ("-" * 300 + "1", "at most 200"),
        ("1" + "+1" * 240, "at most 200"),
        ("9 ** 9 ** 9", r"character 6 \('9 \*\* 9'\): a number from -8 to 8"),
        ("2 ** pctr", r"character 6 \('pctr'\)"),
        ("2 ** 1e9", "numbers must be from -8 to 8"),
        ("1e400", "numbers must be from -1e"),
        ("9" * 400, "numbers must be from"),
        ("True * 2", r"character 1 \('True'\)"),
        ("'a' * 2", "a number from"),
        ("1j", "a number from"),
        ("가격.__class__", r"character 1 \('가격.__class__'\): allowed are"),
        ("가격 + pctr.real", r"character 6 \('pctr.real'\)"),
        ("__import__('os')", r"character 1 \('__import__"),
        ("(lambda: 1)()", "allowed are"),
        ("pctr[0]", "allowed are"),
        ("[pctr][0]", "allowed are"),
        ("pctr if pcvr else 1", "allowed are"),
        ("pctr < pcvr", "allowed are"),
        ("pctr and pcvr", "allowed are"),
        ("not pctr", "allowed are"),
        ("~pctr", "allowed are"),
        ("pctr // 2", "allowed are"),
        ("pctr % 2", "allowed are"),
        ("pctr @ pcvr", "allowed are"),
        ("1 << 99", "allowed are"),
        ("(x := 1)", "allowed are"),
        ("[i for i in pctr]", "allowed are"),
        ("f'{pctr}'", "allowed are"),
        ("max()", "max takes 1 to 8 values"),
        ("sqrt(1, 2)", "sqrt takes 1 to 1 values"),
        ("max(*pctr)", "max takes"),
        ("max(pctr, key=1)", "max takes"),
        ("max.mro()", "allowed are"),
        ("exp(9)", "allowed are"),
        ("await pctr", "allowed are|not a formula"),
        ("\ud800", "not a formula"),
        ("pctr\x00", "not a formula"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Objective.parse(text)


@given(st.text(alphabet="pctrv *+-/()., 0189e_<[]'=:axm", max_size=40))
def test_any_text_is_refused_or_finite(text: str) -> None:
    try:
        objective = Objective.parse(text)
    except ConfigError:
        return
    values, _ = objective(COLUMNS)
    assert values.shape == (3,)
    assert np.isfinite(values).all()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_a_click_with_purchase_is_no_more_likely_than_a_click(pairs: list[tuple[float, float]]) -> None:
    pctr, pcvr = np.array(pairs).T
    assert (Objective.parse("pctcvr")({"pctr": pctr, "pcvr": pcvr})[0] <= pctr).all()
