"""Parse the equations in docstrings, print them as LaTeX, and evaluate them.

A block of equations has one line per step; several equations on a line are separated by a comma and spaces. A line
may begin with a condition and at least two spaces. A condition is a comparison, ``else``, or the name of an option.

    m = beta1 m + (1 - beta1) g
    rho > 5    p = p - lr r m / (sqrt(v) + eps)
    else       p = p - lr m

Adjacent factors are multiplied; a bracket directly after a name is a function call. Products and quotients associate
to the left, and ``f(1) ... f(t)`` is the product of f over all integers from 1 to t.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(r"\d+(?:\.\d+)?|[A-Za-z]\w*\(?|\.\.\.|<=|>=|[-+/^=<>(),|]")

GREEK = {"alpha", "beta", "gamma", "rho", "mu", "pi"}
SYMBOLS = {"eps": r"\epsilon", "rho_inf": r"\rho_\infty"}
"""Names with a special symbol."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "max": max,
    "min": min,
    "cos": math.cos,
    "product": lambda factor, first, last: math.prod(factor(k) for k in range(int(first), int(last) + 1)),
    "floor": math.floor,
    "mod": math.fmod,
    "sign": lambda x: math.copysign(1, x) if x else 0.0,
    "abs": abs,
}
CONSTANTS = {"pi": math.pi, "e": math.e}
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}
COMPARISONS = ("=", "<", "<=", ">", ">=")
RANKS = {"=": 0, "<": 0, "<=": 0, ">": 0, ">=": 0, "+": 1, "-": 1, "*": 2, "/": 2, "^": 4}
"""Operator precedence; higher binds tighter."""


@dataclass(frozen=True)
class Node:
    """A part of an equation: a number, a name, or an operator or function with its arguments."""

    head: str
    arguments: tuple[Node, ...] = ()

    @property
    def rank(self) -> int:
        """The precedence of the node's operator."""
        return RANKS.get(self.head, 5) if self.arguments else 5


@dataclass(frozen=True)
class Line:
    """One line of a block."""

    when: str
    """Condition of the line; empty if it always applies."""
    equations: tuple[Node, ...]


def block(docstring: str) -> str:
    """Return the block of equations in a docstring; empty if there is none."""
    found = re.search(r"^::\n\n((?: {4}.*\n|\n)+)", docstring + "\n", re.MULTILINE)
    return found[1] if found else ""


def lines(text: str) -> list[Line]:
    """Return the parsed lines of a block of equations.

    Raises
    ------
    ValueError
        If a part is not an equation.
    """
    found = []
    for line in text.splitlines():
        if not line.strip():
            continue
        when, equations = re.fullmatch(r"\s*(?:(.*?[^,\s])\s{2,})?(\S+ = .*)", line).groups("")  # type: ignore[union-attr]
        parts = re.split(r",\s+(?=\S+ = )", equations)
        found.append(Line(when, tuple(parse(each) for each in parts)))
    return found


def parse(text: str) -> Node:
    """Return the parsed tree of an equation, a comparison or an expression."""
    reader = _Reader(text)
    node = reader.relation()
    if reader.rest:
        raise ValueError(f"{text!r}: expected an equation, got {reader.rest!r}")
    return node


class _Reader:
    """A recursive-descent parser: each method reads one kind of part and returns its node."""

    def __init__(self, text: str) -> None:
        self.rest = text.strip()
        self._inside = False  # inside an absolute value, where a bar closes it

    def _next(self) -> str:
        found = TOKEN.match(self.rest)
        return found[0] if found else ""

    def _take(self, *wanted: str) -> str:
        token = self._next()
        if not token or (wanted and token not in wanted):
            raise ValueError(f"expected {' or '.join(wanted) or 'a number or a name'} at {self.rest!r}")
        self.rest = self.rest[len(token) :].lstrip()
        return token

    def relation(self) -> Node:
        """Read a sum, or two sums and the comparison between them."""
        node = self._sum()
        if self._next() in COMPARISONS:
            node = Node(self._take(), (node, self._sum()))
        return node

    def _sum(self) -> Node:
        if self._next() == "-":
            self._take()
            node = Node("-", (Node("0"), self._product()))
        else:
            node = self._product()
        while self._next() in ("+", "-"):
            node = Node(self._take(), (node, self._product()))
        return node

    def _product(self) -> Node:
        node = self._power()
        while True:
            token = self._next()
            if token == "/":
                self._take()
                node = Node("/", (node, self._power()))
            elif token == "...":
                self._take()
                node = Node("product", (node, self._power()))
            elif re.match(r"[\w(]", token) or (token == "|" and not self._inside):
                node = Node("*", (node, self._power()))
            else:
                return node

    def _power(self) -> Node:
        node = self._atom()
        if self._next() != "^":
            return node
        self._take()
        if self._next() == "-":
            self._take()
            return Node("^", (node, Node("-", (Node("0"), self._atom()))))
        return Node("^", (node, self._atom()))

    def _atom(self) -> Node:
        token = self._take()
        if token == "(":
            node = self._sum()
            self._take(")")
            return node
        if token == "|":
            self._inside = True
            node = Node("abs", (self._sum(),))
            self._inside = False
            self._take("|")
            return node
        if token.endswith("("):
            arguments = [self._sum()]
            while self._take(",", ")") == ",":
                arguments.append(self._sum())
            return Node(token[:-1], tuple(arguments))
        if not re.match(r"\w", token):
            raise ValueError(f"expected a number or a name, got {token!r}")
        return Node(token)


def latex(node: Node) -> str:
    """Return a node as LaTeX."""
    if not node.arguments:
        return symbol(node.head)
    parts = [latex(each) for each in node.arguments]
    if node.head in RANKS:
        return _operation(node, parts)
    plain = {"sqrt": rf"\sqrt{{{parts[0]}}}", "floor": rf"\left\lfloor {parts[0]} \right\rfloor"}
    plain["abs"] = rf"\left|{parts[0]}\right|"
    if node.head in plain:
        return plain[node.head]
    if node.head == "mod":
        return rf"{_bracketed(node.arguments[0], 2)} \bmod {_bracketed(node.arguments[1], 2)}"
    if node.head == "product":
        return rf"{parts[0]} \cdots {parts[1]}"
    name = rf"\{node.head}" if node.head in ("max", "min", "cos") else symbol(node.head)
    if node.head == "sign":
        name = r"\operatorname{sign}"
    return name + _parentheses(", ".join(parts))


def _operation(node: Node, parts: list[str]) -> str:
    left, right = node.arguments
    if node.head == "/":
        if left.head == "*" and left.arguments and _has_fraction(left.arguments[0]):  # a/b c/d
            return rf"{latex(left.arguments[0])} \, {latex(Node('/', (left.arguments[1], right)))}"
        return rf"\frac{{{parts[0]}}}{{{parts[1]}}}"
    if node.head == "^":
        return rf"{_bracketed(left, 5)}^{{{parts[1]}}}"
    if node.head == "*":
        factors = _bracketed(left, 2), _bracketed(right, 2)
        return (r" \cdot " if factors[1][0].isdigit() else r" \, ").join(factors)
    if left == Node("0"):
        return f"-{_bracketed(right, 2)}"
    sign = {"<=": r"\le", ">=": r"\ge"}.get(node.head, node.head)
    return f"{parts[0]} {sign} {_bracketed(right, 2) if node.head == '-' else parts[1]}"


def _has_fraction(node: Node) -> bool:
    return node.head == "/" or (node.head == "*" and any(_has_fraction(each) for each in node.arguments))


def _bracketed(node: Node, least: int) -> str:
    text = latex(node)
    return text if node.rank >= least else _parentheses(text)


def _parentheses(text: str) -> str:
    """Return the text in parentheses, which are tall if it contains a fraction."""
    return rf"\left({text}\right)" if r"\frac" in text else f"({text})"


def symbol(name: str) -> str:
    """Return a name as LaTeX."""
    if name in SYMBOLS:
        return SYMBOLS[name]
    letter, index = re.fullmatch(r"(.*?)_?(\d+|(?<=_)\w)?", name).groups()  # type: ignore[union-attr]
    if name[0].isdigit():
        return name
    if letter in GREEK:
        letter = f"\\{letter}"
    elif len(letter) > 1:
        letter = rf"\mathrm{{{letter.replace('_', chr(92) + '_')}}}"
    return letter if index is None else f"{letter}_{{{index}}}"


def display(text: str) -> str:
    """Return a block of equations as displayed LaTeX."""
    read = lines(text)
    labelled = any(line.when for line in read)
    rows = []
    for line in read:
        label = _label(line.when)
        for each in line.equations:
            equation = latex(each)
            rows.append(
                rf"{label} & \displaystyle {equation}" if labelled else equation.replace(" = ", " &= ", 1)
            )
            label = ""
    begin = r"\begin{array}{ll}" if labelled else r"\begin{aligned}"
    end = r"\end{array}" if labelled else r"\end{aligned}"
    return "\n".join([begin, " \\\\[4pt]\n".join(rows), end])


def _label(when: str) -> str:
    try:
        node = parse(when)
    except ValueError:
        node = Node(when)
    if node.head in COMPARISONS:
        return latex(node)
    escaped = when.replace("_", r"\_").replace(" ", r"\ ")  # some renderers reject an underscore in \text
    return rf"\mathrm{{{escaped}}}" if when else ""


def value(node: Node, known: Mapping[str, Any]) -> Any:
    """Return the value of a node. `known` contains the values of names, and functions in addition to `FUNCTIONS`."""
    if not node.arguments:
        return float(node.head) if node.head[0].isdigit() else {**CONSTANTS, **known}[node.head]
    if node.head == "product":
        (first,), (last,) = (each.arguments for each in node.arguments)
        factor = known[node.arguments[0].head]
        return FUNCTIONS["product"](factor, value(first, known), value(last, known))
    arguments = [value(each, known) for each in node.arguments]
    return {**OPERATORS, **FUNCTIONS, **known}[node.head](*arguments)


def compute(read: Iterable[Line], known: dict[str, Any], chosen: Callable[[str], bool]) -> dict[str, Any]:
    """Evaluate the lines that apply, in order.

    Of lines with comparisons, only those with the first true comparison apply. Of lines with an option, those whose
    option is `chosen` apply. Lines without a condition always apply.

    Returns
    -------
    dict
        `known` with the computed values added. A function such as f(z) becomes a Python function.
    """
    holds = ""
    for line in read:
        condition = _condition(line.when)
        if condition is None:
            holds = ""
            if line.when and not chosen(line.when):
                continue
        else:
            if not holds and (line.when == "else" or value(condition, known)):
                holds = line.when
            if line.when != holds:
                continue
        for each in line.equations:
            name, formula = each.arguments
            if not name.arguments:
                known[name.head] = value(formula, known)
            else:
                known[name.head] = _function(
                    [argument.head for argument in name.arguments], formula, dict(known)
                )
    return known


def _condition(when: str) -> Node | None:
    """Return the parsed condition if it is a comparison or ``else``; None otherwise."""
    try:
        node = parse(when)
    except ValueError:
        return None
    return node if when == "else" or node.head in COMPARISONS else None


def _function(names: Sequence[str], formula: Node, known: Mapping[str, Any]) -> Callable[..., Any]:
    return lambda *arguments: value(formula, {**known, **dict(zip(names, arguments, strict=True))})
