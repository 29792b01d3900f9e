"""What a mutant is: one small change of a module's behaviour, made by mutmut's operators and ours.

mutmut (https://github.com/boxed/mutmut) knows how to change a node of the syntax tree; its list of
operators is used as it is. Its own runner is not: it leaves decorated functions and module level
alone (all kernels, all constants), and it does not let a chapter be judged by its own test file.

Left out of the list:

- changes of annotations, type aliases, docstrings, imports and ``__all__``: nothing runs them;
- whatever stands in a ``raise``: the words of a message and the numbers shown in it (that an error
  is raised at all is changed by the condition above it);
- ``None`` put in place of an assigned value or an argument: nearly all of these crash at once, and
  would only lift the score;
- the lower-case and upper-case forms of a string: one wrong string is enough;
- another negative number in place of the -1 of ``reshape``, which means the same, and ``strict`` of
  ``zip``, which checks the code itself.

Added to it are the small faults that mutmut cannot make, ``OWN`` below.
"""

import ast
import difflib
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

Operator = Callable[[Any], Iterable[cst.CSTNode]]

SWAPS = dict(
    pair
    for a, b in [
        *[("min", "max"), ("minimum", "maximum"), ("any", "all"), ("floor", "ceil")],
        *[("argmin", "argmax"), ("zeros", "ones"), ("fmin", "fmax"), ("sum", "prod")],
    ]
    for pair in [(a, b), (b, a)]
)
DROPPED = {"abs", "sorted", "rint", "sqrt", "tril", "triu", "array"}


def swap_function(node: cst.Call) -> Iterator[cst.CSTNode]:
    """Call the opposite: min(x) -> max(x), np.floor(x) -> np.ceil(x), x.any() -> x.all()."""
    name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
    if isinstance(name, cst.Name) and name.value in SWAPS:
        yield node.with_deep_changes(name, value=SWAPS[name.value])


def drop_call(node: cst.Call) -> Iterator[cst.CSTNode]:
    """Leave a function of one value out: abs(x) -> x, np.tril(x) -> x, x.copy() -> x."""
    if not node.args:
        if m.matches(node.func, m.Attribute(attr=m.Name("copy"))):
            yield cst.ensure_type(node.func, cst.Attribute).value
        return
    name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
    if isinstance(name, cst.Name) and name.value in DROPPED and not node.args[0].star:
        yield node.args[0].value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def drop_transpose(node: cst.Attribute) -> Iterator[cst.CSTNode]:
    """Leave a transposition out: A.T -> A."""
    if node.attr.value == "T":
        yield node.value


def force_condition(node: cst.If | cst.While) -> Iterator[cst.CSTNode]:
    """Take one way always: if c -> if True, if False; while c -> while False."""
    if isinstance(node, cst.If):
        yield node.with_changes(test=cst.Name("True"))
    yield node.with_changes(test=cst.Name("False"))


def force_filter(node: cst.CompIf) -> Iterator[cst.CSTNode]:
    """Let everything through: [x for x in y if c] -> [x for x in y if True]."""
    yield node.with_changes(test=cst.Name("True"))


def drop_statement(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """Do nothing: f(x) -> pass, x += 1 -> pass, x[i] = y -> pass."""
    target = m.Assign(targets=[m.AssignTarget(target=m.Subscript() | m.Attribute())])
    if len(node.body) == 1 and m.matches(
        node.body[0], m.Expr(value=m.Call()) | m.AugAssign() | target
    ):
        yield node.with_changes(body=[cst.Pass()])


def lower_number(node: cst.Integer) -> Iterator[cst.CSTNode]:
    """Count one less: 2 -> 1."""
    if node.evaluated_value > 0:
        yield node.with_changes(value=str(node.evaluated_value - 1))


def drop_float(node: cst.Float) -> Iterator[cst.CSTNode]:
    """Switch a tolerance or a floor off: 1e-9 -> 0.0."""
    if node.evaluated_value != 0:
        yield node.with_changes(value="0.0")


OWN: list[tuple[type, Operator]] = [
    (cst.Call, swap_function),
    (cst.Call, drop_call),
    (cst.Attribute, drop_transpose),
    (cst.If, force_condition),
    (cst.While, force_condition),
    (cst.CompIf, force_filter),
    (cst.SimpleStatementLine, drop_statement),
    (cst.Integer, lower_number),
    (cst.Float, drop_float),
]
OPERATORS: list[tuple[type, Operator]] = [*mutation_operators, *OWN]


@dataclass(frozen=True)
class Mutant:
    """One change.

    ``old`` and ``new`` are the changed lines; they and ``where`` survive edits elsewhere.
    ``where`` is the qualified name of the function, or ``<module>``; ``number`` counts the mutants
    of one function whose lines read the same.
    """

    where: str
    old: str
    new: str
    number: int
    line: int
    first: int  # of the lines whose tests judge it
    last: int
    operator: str
    source: str  # of the whole module, changed

    @property
    def key(self) -> str:
        """Return a name that does not depend on line numbers."""
        text = "\0".join([self.where, self.old, self.new, str(self.number)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def diff(self, original: str, file: str) -> str:
        """Return the change as a unified diff with one line around it."""
        lines = difflib.unified_diff(
            original.splitlines(), self.source.splitlines(), file, file, n=1, lineterm=""
        )
        return "\n".join(islice(lines, 2, None))


@dataclass(frozen=True)
class Change:
    """A place and what may stand there instead; not yet known to be a program."""

    where: str
    piece: int  # which statement at top level
    top: int  # first line of the function
    operator: str
    node: cst.CSTNode
    new: cst.CSTNode
    first: int
    last: int


class Finder(cst.CSTVisitor):
    """Collects the changes of a module, in the order of its text."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self, pieces: dict[int, int]) -> None:
        super().__init__()
        self._pieces, self._piece = pieces, 0
        self.changes: list[Change] = []
        self._skipped: set[int] = set()
        self._names: list[tuple[str, int]] = []  # of the functions around, and their first lines
        self._lines: list[tuple[int, int]] = [(1, 1)]

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Collect what the operators make of a node, unless it is no behaviour."""
        self._piece = self._pieces.get(id(node), self._piece)
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self._lines.append(self._span(node))
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            top = self.get_metadata(PositionProvider, node).start.line
            self._names.append((node.name.value, top))
        if is_no_behaviour(node) or id(node) in self._skipped:
            return False
        if m.matches(node, m.Call(func=m.Attribute(attr=m.Name("reshape")))):
            rest = m.UnaryOperation(operator=m.Minus(), expression=m.Integer())
            self._skipped |= {id(found.expression) for found in m.findall(node, rest)}
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                for new in operator(node):
                    if not is_left_out(operator, node, new):
                        where = ".".join(name for name, _ in self._names) or "<module>"
                        top = self._names[-1][1] if self._names else 1
                        name = operator.__name__.removeprefix("operator_")
                        place = (where, self._piece, top)
                        change = Change(*place, name, node, new, *self._lines[-1])
                        self.changes.append(change)
                        if operator.__name__ == "operator_string":
                            break
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Leave a function, a class or a statement."""
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._names.pop()
        if isinstance(original_node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self._lines.pop()

    def _span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Lines whose tests judge a statement: the head of an ``if`` or a loop, a ``def``'s body.

        The head of a function runs at import, but its defaults matter only to those who call it.
        """
        where = self.get_metadata(PositionProvider, node)
        body = getattr(node, "body", None)
        if isinstance(node, cst.BaseCompoundStatement) and isinstance(body, cst.BaseSuite):
            inside = self.get_metadata(PositionProvider, body)
            if isinstance(node, cst.FunctionDef):
                return inside.start.line, inside.end.line
            return where.start.line, max(where.start.line, inside.start.line - 1)
        return where.start.line, where.end.line


def is_no_behaviour(node: cst.CSTNode) -> bool:
    """Tell whether nothing under a node runs, or only to word a message."""
    if m.matches(node, m.Arg(keyword=m.Name("strict"))):
        return True
    if isinstance(node, cst.Annotation | cst.Import | cst.ImportFrom | cst.Raise | cst.Comment):
        return True
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1:
        only = node.body[0]
        target = m.Assign(targets=[m.AssignTarget(target=m.Name("__all__"))]) | m.Assign(
            value=m.Call(func=m.Name("TypeVar") | m.Name("ParamSpec"))
        )
        alias = m.AnnAssign(annotation=m.Annotation(annotation=m.Name("TypeAlias")))
        listed = m.AnnAssign(target=m.Name("__all__"))
        docstring = m.Expr(value=m.SimpleString() | m.ConcatenatedString())
        return m.matches(only, target | alias | listed | docstring)
    return m.matches(node, m.If(test=m.Name("TYPE_CHECKING")))


def is_left_out(operator: Operator, node: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Tell whether a change is one of those that crash at once."""
    name = operator.__name__
    if name == "operator_assignment":
        return True
    if name == "operator_arg_removal":
        before, after = cst.ensure_type(node, cst.Call), cst.ensure_type(new, cst.Call)
        if len(before.args) == len(after.args):  # None in place of an argument
            return True
        gone = [arg for arg in before.args if not any(arg is other for other in after.args)]
        return m.matches(gone[0], m.Arg(keyword=m.Name("strict")))
    return False


def mutants(source: str, sample: int | None = None, seed: int = 0) -> Iterator[Mutant]:
    """Yield the mutants of a module: all in the order of the text, or a sample in a drawn order.

    The sample of a smaller size is the beginning of the sample of a larger one with the same seed.
    """
    text = Text(source)
    changes = text.changes
    if sample is not None:
        random.Random(seed).shuffle(changes)
    yield from islice(filter(None, map(text.program, changes)), sample)


class Text:
    """A module in pieces, one per statement at its top level; a change touches one of them."""

    def __init__(self, source: str) -> None:
        self.source = source
        wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
        self.module = wrapper.module
        finder = Finder({id(node): n for n, node in enumerate(self.module.body)})
        wrapper.visit(finder)
        self.changes = finder.changes
        self.pieces = [self.module.code_for_node(node) for node in self.module.body]
        self.head = "".join(self.module.code_for_node(line) for line in self.module.header)
        tail = "".join(self.module.code_for_node(line) for line in self.module.footer)
        self.pieces.append(tail)
        assert self.head + "".join(self.pieces) == source, "the pieces are not the module"
        self._seen = {(n, _tree(piece)) for n, piece in enumerate(self.pieces)}

    def program(self, change: Change) -> Mutant | None:
        """Make the changed module; None if it is no program, or one that came before."""
        n = change.piece
        changed = self.module.code_for_node(
            self.module.body[n].deep_replace(change.node, change.new)  # type: ignore[arg-type]
        )
        tree = _tree(changed)
        if tree is None or (n, tree) in self._seen:
            return None
        self._seen.add((n, tree))
        start = (self.head + "".join(self.pieces[:n])).count("\n")
        before, after = self.pieces[n].splitlines(), changed.splitlines()
        matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
        blocks = [block for block in matcher.get_opcodes() if block[0] != "equal"]
        first, last = blocks[0][1], blocks[-1][2]
        old, new = _words(before[first:last]), _words(after[blocks[0][3] : blocks[-1][4]])
        # Lines that read the same are told apart by their order in the function.
        earlier = range(change.top - 1 - start, first)
        number = sum(_words(before[i : i + last - first]) == old for i in earlier)
        source = "".join([self.head, *self.pieces[:n], changed, *self.pieces[n + 1 :]])
        lines = (start + first + 1, change.first, change.last)
        return Mutant(change.where, old, new, number, *lines, change.operator, source)


def _tree(piece: str) -> str | None:
    try:
        return ast.dump(ast.parse(piece))
    except SyntaxError:
        return None


def _words(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
