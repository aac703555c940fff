"""What a page is ordered by: a shop's own formula of predictions and item columns, such as ``pctr * pcvr * price``.

The text is parsed by Python's `ast` and compiled once from a list of what is allowed; nothing is evaluated as code.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import ConfigError

FloatVector = npt.NDArray[np.float64]
_Value: TypeAlias = FloatVector | float
_Compiled: TypeAlias = Callable[[Mapping[str, FloatVector]], _Value]

MAX_CHARACTERS = 500
MAX_NODES = 200
MAX_NUMBER = 1e12
MAX_EXPONENT = 8.0
PCTCVR = "pctcvr"
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {  # and the most arguments
    "min": (lambda *values: reduce(np.minimum, values), 8),
    "max": (lambda *values: reduce(np.maximum, values), 8),
    "abs": (np.abs, 1),
    "sqrt": (np.sqrt, 1),
    "log1p": (np.log1p, 1),
}


class Objective:
    """A compiled formula. Immutable; safe for calls from many threads.

    Attributes
    ----------
    text : str
    columns : frozenset of str
        Names it needs. `pctcvr` is ``pctr * pcvr`` and needs no column of its own.
    """

    def __init__(self, text: str, columns: frozenset[str], compiled: _Compiled, joint: bool = False) -> None:
        self.text, self.columns, self._compiled, self._joint = text, columns, compiled, joint

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Return the compiled formula.

        Parameters
        ----------
        text : str
            Numbers, names of columns, ``+ - * / **``, parentheses, and ``min max abs sqrt log1p``. The right side of
            ``**`` is a number from -8 to 8.

        Raises
        ------
        ConfigError
            Anything else, or a formula that is too long; says what stands where.

        Examples
        --------
        >>> objective = Objective.parse("pctr * pcvr * price")
        >>> objective({"pctr": [0.5, 0.1], "pcvr": [0.5, 0.5], "price": [100.0, 1000.0]})[0].tolist()
        [25.0, 50.0]
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"an objective must be a formula such as 'pctr * price', got {text!r:.40}")
        if len(text) > MAX_CHARACTERS:
            raise ConfigError(f"the objective has {len(text)} characters, at most {MAX_CHARACTERS} are allowed")
        # one line, so that a place is one number
        line = " ".join(text.split())
        try:
            tree = ast.parse(line, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            # Python says 0 where something is missing at the end
            place = (error.offset or len(line)) if isinstance(error, SyntaxError) else 1
            raise ConfigError(
                f"objective '{line}', character {place}: not a formula: {getattr(error, 'msg', None) or error}"
            ) from None
        nodes = sum(1 for _ in ast.walk(tree))
        if nodes > MAX_NODES:
            raise ConfigError(f"the objective has {nodes} terms and operators, at most {MAX_NODES} are allowed")
        columns: set[str] = set()
        compiled = _compile(tree, line, columns)
        joint = PCTCVR in columns
        if joint:
            columns = columns - {PCTCVR} | {"pctr", "pcvr"}
        return cls(line, frozenset(columns), compiled, joint)

    def __call__(self, columns: Mapping[str, npt.ArrayLike]) -> tuple[FloatVector, str]:
        """Return the value of each candidate, higher is better, and what went wrong.

        Parameters
        ----------
        columns : mapping of name to numbers, shape (n,)
            May hold more than the formula needs; not empty.

        Returns
        -------
        values : float64 array, shape (n,)
            Always finite: 0 where the formula is not (a missing price, a division by zero, an overflow).
        problem : str
            Empty, or how many candidates that was and which column is not there at all.
        """
        n = len(np.asarray(next(iter(columns.values()))))
        missing = sorted(self.columns - columns.keys())
        given = {
            name: np.asarray(columns[name], np.float64) if name in columns else np.full(n, np.nan)
            for name in self.columns
        }
        with np.errstate(all="ignore"):
            if self._joint:
                given[PCTCVR] = given["pctr"] * given["pcvr"]
            found = self._compiled(given)
        if isinstance(found, np.ndarray) and not any(found is column for column in given.values()):
            values = found
        else:  # a number, or a column as it was given
            values = np.array(np.broadcast_to(found, n), np.float64)
        finite = np.isfinite(values)
        if finite.all():
            return values, ""
        values[~finite] = 0.0
        cause = f"; there is no column {', '.join(missing)}" if missing else ""
        return values, f"objective: no finite value for {n - int(finite.sum())} of {n} candidates, taken as 0{cause}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objective) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Objective({self.text!r})"


def _compile(node: ast.expr, text: str, columns: set[str]) -> _Compiled:
    """Return the function of one node; the names it reads go to `columns`."""
    if isinstance(node, ast.Constant):
        number = _number(node, text, MAX_NUMBER)
        return lambda _: number
    if isinstance(node, ast.Name):
        name = node.id
        columns.add(name)
        return lambda given: given[name]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _compile(node.operand, text, columns)
        return (lambda given: -inner(given)) if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left = _compile(node.left, text, columns)
        if isinstance(node.op, ast.Pow):
            exponent = _number(node.right, text, MAX_EXPONENT)
            return lambda given: np.float_power(left(given), exponent)
        right, operator = _compile(node.right, text, columns), _OPERATORS.get(type(node.op))
        if operator is not None:
            return lambda given: operator(left(given), right(given))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        function, most = _FUNCTIONS[node.func.id]
        if node.keywords or not 1 <= len(node.args) <= most or any(isinstance(a, ast.Starred) for a in node.args):
            raise _fault(node, text, f"{node.func.id} takes 1 to {most} values")
        arguments = [_compile(argument, text, columns) for argument in node.args]
        return lambda given: function(*(argument(given) for argument in arguments))
    raise _fault(node, text, f"allowed are numbers, columns, + - * / **, parentheses and {', '.join(_FUNCTIONS)}")


def _number(node: ast.expr, text: str, most: float) -> float:
    sign = 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1.0
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _fault(node, text, f"a number from -{most:g} to {most:g} must stand here")
    if not (abs(value) <= most and math.isfinite(value)):
        raise _fault(node, text, f"numbers must be from -{most:g} to {most:g}")
    return sign * float(value)


def _fault(node: ast.expr, text: str, message: str) -> ConfigError:
    data = text.encode()
    begin, end = node.col_offset, node.end_col_offset
    place = len(data[:begin].decode()) + 1
    return ConfigError(f"objective '{text}', character {place} ('{data[begin:end].decode()[:40]}'): {message}")
