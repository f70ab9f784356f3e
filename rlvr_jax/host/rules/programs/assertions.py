"""Evaluate the assertions of tests outside of the sandbox, on plain data.

The text of a test belongs to the data, not to the model.  Still it is not run unchanged:
`parse_script` accepts only the forms of Python that tests need, and replaces each comparison,
attribute and growing operation by a function of `operations`.  Names that the test does not define
are those of the program: a call of such a name sends its arguments into the sandbox and brings back
plain data.  The expected values of a test stay outside.

A test is refused if the program could judge itself: if an assertion uses two functions of the
program, if the result of one function is the argument of another, or if a call matters only for its
changes to its arguments.  Only classes of arguments, as in `depth(Node(1, Node(2)))`, may stand
beside the function under test.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from types import CodeType
from typing import Any, NamedTuple

from rlvr_jax.host.rules.programs import operations

_NODES = (
    *(ast.Module, ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.If, ast.Return),
    *(ast.Pass, ast.Break, ast.Continue, ast.FunctionDef, ast.arguments, ast.arg, ast.Lambda),
    *(ast.BoolOp, ast.boolop, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.IfExp),
    ast.NamedExpr,
    *(ast.Call, ast.keyword, ast.Name, ast.expr_context, ast.Constant, ast.Starred, ast.Subscript),
    *(ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Slice, ast.comprehension),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_GROWING = {ast.Mult: "__multiply", ast.Pow: "__power", ast.LShift: "__shift", ast.Mod: "__modulo"}
_SOLUTION = ("solution", "typing")  # modules whose imports change nothing here


class Script(NamedTuple):
    """A Script holds the assertions of a test as code, and the names that the code calls."""

    code: CodeType
    names: tuple[str, ...]
    entry: tuple[str, ...]  # what `check(candidate)` is called with; empty if the text calls it
    functions: tuple[str, ...]  # defined by the test, to be called: check, test_...
    materials: tuple[str, ...]  # the names that are classes of arguments: Node, Pair


def parse_script(text: str, entry: tuple[str, ...] = ()) -> Script:
    """Parse the text of a test into its assertions; `entry` is the path of the function under test.

    Raises:
      ValueError: the text is not Python, has a form that is not evaluated here, or calls no
        function of the program.
    """
    try:
        tree = ast.parse(textwrap.dedent(text.replace("\r\n", "\n")).strip())
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"the test {_short(text)} is not Python: {error}") from None
    names = _find_names(tree, entry)
    materials = _find_materials(tree, names, entry)
    _check_names(tree, tuple(name for name in names if name not in materials), entry)
    tested = set(names) - set(materials)
    rewritten = _Rewriter(any(name[0].isupper() for name in (*tested, *entry))).visit(tree)
    code = compile(ast.fix_missing_locations(rewritten), "test", "exec")
    functions = [node.name for node in rewritten.body if isinstance(node, ast.FunctionDef)]
    called = {_name(node.func) for node in ast.walk(rewritten) if isinstance(node, ast.Call)}
    if entry and "check" in functions and "check" not in called:
        return Script(code, names, entry, ("check",), materials)
    tests = tuple(name for name in functions if name.startswith("test") and name not in called)
    if not tested:
        raise ValueError(f"the test {_short(text)} calls no function of the program")
    return Script(code, names, (), tests, materials)


def run_script(script: Script, program: operations.Program) -> bool:
    """Return whether all assertions of a test hold for a program; False if there were none.

    Raises:
      ValueError: the test did not call the program, or gives it a value that is not plain data.
    """
    scope = operations.make_scope(program)
    for name in script.names:
        has_methods = name[0].isupper() and name not in script.materials
        scope[name] = operations.Callee(program, (name,), has_methods)
    try:
        exec(script.code, scope)  # the rewritten test, of the forms above; no text of a model
        for name in script.functions:
            callee = operations.Callee(program, script.entry)
            scope[name](*([callee] if script.entry else []))
    except operations.UnfitTest:
        raise
    except Exception:  # an assertion, or values of the program that a test cannot work with
        return False
    if not program.calls:
        raise ValueError("the test made no call of the program")
    return program.assertions > 0


def _short(text: str) -> str:
    return repr(text if len(text) < 80 else text[:77] + "...")


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _find_names(tree: ast.Module, entry: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that a test uses and that neither the test nor Python defines.

    Raises:
      ValueError: one of the names is a builtin that is not evaluated here.
    """
    own = {"__name__", *operations.SCOPE}
    loaded: dict[str, None] = {}
    solution: set[str] = set()
    skipped = {id(part) for part in ast.walk(tree) for part in _annotations(part)}
    for node in _walk(tree, skipped):
        if isinstance(node, ast.Name):
            own |= set() if isinstance(node.ctx, ast.Load) else {node.id}
            loaded |= {node.id: None} if isinstance(node.ctx, ast.Load) else {}
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = {alias.asname or alias.name for alias in node.names}
            ours = isinstance(node, ast.ImportFrom) and node.module == "solution"
            solution |= named if ours else set()
            own |= set() if ours else named
    names = tuple(name for name in loaded if name not in own or name in solution)
    for name in names:
        if hasattr(builtins, name):
            raise ValueError(f"a test uses {name}, which is not evaluated outside of the program")
    return names


def _find_materials(
    tree: ast.Module, names: tuple[str, ...], entry: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names of classes whose instances are only arguments of the function under test.

    They are called inside of a call only, and what they are given comes from no other function.
    """
    tested = {*entry, "Solution"}
    classes = {name for name in names if name[0].isupper() and name not in tested}
    if classes == set(names) and not entry:
        return ()
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts = [part for value in (*node.args, *node.keywords) for part in ast.walk(value)]
            inside |= set(map(id, parts))
            if _name(node.func) in classes and {*map(_name, parts)} & (set(names) - classes):
                classes.discard(_name(node.func))
    outside = {_name(node) for node in ast.walk(tree) if id(node) not in inside}
    return tuple(name for name in names if name in classes - outside)


def _annotations(node: ast.AST) -> list[ast.AST]:
    """Return the parts of a node that are dropped before it is evaluated."""
    parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    parts.append(node.msg if isinstance(node, ast.Assert) else None)
    return [part for part in parts if part is not None]


def _walk(node: ast.AST, skipped: set[int]) -> list[ast.AST]:
    nodes = [node]
    for part in nodes:
        nodes += [child for child in ast.iter_child_nodes(part) if id(child) not in skipped]
    return nodes


def _check_names(tree: ast.Module, names: tuple[str, ...], entry: tuple[str, ...]) -> None:
    """Refuse a test in which the program could judge itself.

    Raises:
      ValueError: the test has two names of the program where one could see an expected value, uses
        a name without a call, or calls for what the call changes.
    """
    others = [name for name in names if entry and name not in (entry[0], entry[-1])]
    if others:
        raise ValueError(
            f"a test uses {others[0]}, which is neither Python's nor {'.'.join(entry)}"
        )
    for statement in tree.body:
        used = {_name(node) for node in ast.walk(statement)} & set(names)
        test = isinstance(statement, ast.FunctionDef) and statement.name.startswith("test")
        alone = len(used) == 1 and (test or isinstance(statement, ast.Assert))
        if len(names) > 1 and used and not alone:
            raise ValueError(
                f"a test uses {' and '.join(names[:3])} of the program together: one of them could "
                "be told the expected value"
            )
    candidates = {
        arg.arg
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "check"
        for arg in node.args.args
    }
    called: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called |= {id(node.func), *(map(id, node.args) if _name(node.func) == "check" else ())}
        elif isinstance(node, ast.Attribute):
            called.add(id(node.value))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if _name(node.value.func) in {*names, *candidates}:
                raise ValueError(
                    f"a test calls {_name(node.value.func)} and does not look at its value: what "
                    "it changes in its arguments is not seen outside of the program"
                )
    for node in ast.walk(tree):
        if _name(node) in names and id(node) not in called:
            raise ValueError(f"a test uses {_name(node)} without calling it")


class _Rewriter(ast.NodeTransformer):
    """A _Rewriter replaces syntax that is unsafe on plain data, and refuses nodes not in _NODES."""

    def __init__(self, has_class: bool):
        self.has_class = has_class

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, _NODES):
            raise ValueError(
                f"a test has the form {type(node).__name__}, which is not evaluated outside of the "
                "program"
            )
        return super().generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.copy_location(ast.Expr(_call("__assert", self.visit(node.test))), node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        kinds = ast.List([ast.Constant(type(op).__name__) for op in node.ops], ast.Load())
        parts = [self.visit(part) for part in (node.left, *node.comparators)]
        return ast.copy_location(_call("__compare", kinds, *parts), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        function = _GROWING.get(type(node.op))
        return ast.copy_location(_call(function, node.left, node.right), node) if function else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if type(node.op) in _GROWING:
            raise ValueError("a test has *=, **=, <<= or %=: write x = x * y")
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        known = self.has_class or node.attr in operations.ATTRIBUTES
        if node.attr.startswith("_") or not known or not isinstance(node.ctx, ast.Load):
            raise ValueError(f"a test uses .{node.attr}, which is not evaluated outside")
        value = self.visit(node.value)
        return ast.copy_location(_call("__attribute", value, ast.Constant(node.attr)), node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        _check_name(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        _check_name(node.arg)
        return ast.copy_location(ast.arg(node.arg), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        _check_name(node.name)
        if node.decorator_list:
            raise ValueError(f"a test decorates its function {node.name}")
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None or not isinstance(node.target, ast.Name):
            raise ValueError("a test annotates what it does not define")
        target, value = self.visit(node.target), self.visit(node.value)
        return ast.copy_location(ast.Assign([target], value), node)

    def visit_Import(self, node: ast.Import) -> Any:
        return [self._assign(node, alias, alias.name, "") for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        module = node.module or ""
        if module in _SOLUTION:
            return ast.copy_location(ast.Pass(), node)
        return [self._assign(node, alias, module, alias.name) for alias in node.names]

    def _assign(self, node: ast.stmt, alias: ast.alias, module: str, member: str) -> ast.AST:
        members = operations.MODULES.get(module)
        if members is None or (member and member not in members):
            if module in _SOLUTION:
                return ast.copy_location(ast.Pass(), node)
            raise ValueError(f"a test imports {member or module}, which is not evaluated outside")
        value: ast.expr = _call("__module", ast.Constant(module))
        if member:
            value = _call("__attribute", value, ast.Constant(member))
        target = alias.asname or alias.name
        _check_name(target)
        return ast.copy_location(ast.Assign([ast.Name(target, ast.Store())], value), node)


def _check_name(name: str) -> None:
    if name.startswith("__") and name != "__name__":
        raise ValueError(f"a test uses the name {name}")


def _call(function: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), list(arguments), [])
