"""The settings of a component, read from its source without importing it.

A component is a class named by `_target_`. Its fields (name, annotation, default), including inherited dataclass
fields, are read from the syntax tree of its module, so that typos are reported without importing torch. Annotations are
evaluated in a small fixed namespace: int, float, bool, str, None, object, Literal, tuple, list, dict, `|`, Optional,
the aliases of `nasx.core.constraints`, and aliases that the module itself defines or imports from a readable module.
All other annotations become `object`, which accepts any value. The source is never executed.

Lists become tuples: a YAML list satisfies both `tuple[...]` and `list[...]`, and the component receives a tuple.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from nasx.core import constraints
from nasx.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

_NAMES: dict[str, object] = {"int": int, "float": float, "bool": bool, "str": str, "None": None}
_NAMES |= {"object": object, "Any": object}
_NAMES |= {name: alias for name, alias in vars(constraints).items() if get_origin(alias) is Annotated}


@dataclass(frozen=True)
class Field:
    """A setting of a component. `default` is source text, or None if the setting has no default."""

    name: str
    annotation: object
    default: str | None
    line: int = 0


class ComponentNode:
    """Type of a field whose value is a component of nasx: a mapping with `_target_`."""


@dataclass(frozen=True)
class Component:
    """A class as declared in its source. `summary`: first line of its docstring. `open`: takes any keyword."""

    name: str
    module: str
    summary: str
    fields: Mapping[str, Field]
    open: bool = False
    doc: str = ""


# ------------------------------------------------------------------------------------------------- modules
def locate(module: str) -> Path | None:
    """Return the source file of a module without importing it or its parents. Also searches the current folder."""
    head, *rest = module.split(".")
    try:  # uses all finders: some editable installs add their own
        spec = importlib.util.find_spec(head) or PathFinder.find_spec(head, [str(Path.cwd())])
    except ValueError:  # a module without a spec, such as __main__
        return None
    for name in rest:
        folders = list(spec.submodule_search_locations or []) if spec else []
        spec = PathFinder.find_spec(name, folders) if folders else None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def tree(module: str) -> ast.Module | None:
    """Return the syntax tree of a module; None if it has no source. Raises UserError if it is not valid Python."""
    path = locate(module)
    try:
        return None if path is None else ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise UserError(
            f"{path}, line {error.lineno}", f"is not valid Python ({error.msg})", "correct the file"
        ) from error
    except ValueError as error:
        raise UserError(str(path), f"is not valid Python ({error})", "correct the file") from error


def docstring(module: str) -> str:
    """Return a module's docstring; empty if it has none."""
    body = tree(module)
    return "" if body is None else ast.get_docstring(body) or ""


@cache
def definition(module: str, name: str) -> tuple[str, ast.stmt] | None:
    """Return (module, statement) for the definition of `name`, following imports; None if it is not found."""
    body = tree(module)
    for node in _statements(body.body) if body else ():
        match node:
            case ast.ClassDef() if node.name == name:
                return module, node
            case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                return module, node
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr()) if target == name:
                return module, node
            case ast.ImportFrom():
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return definition(absolute(node, module), alias.name)
    return None


def class_definition(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Return (module, class) for the class `name`, following imports; None if it is not found or not a class."""
    match definition(module, name) if module else None:
        case (str(home), ast.ClassDef() as node):
            return home, node
    return None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the top-level statements, including those under `if` conditions such as `if TYPE_CHECKING:`."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements(node.body)


def absolute(node: ast.ImportFrom, module: str) -> str:
    """Return the absolute name of the module from which the import statement `node` in `module` imports."""
    if not node.level:
        return node.module or ""
    path = locate(module)
    parts = module.split(".")
    drop = node.level - (1 if path is not None and path.name == "__init__.py" else 0)
    base = parts[: len(parts) - drop]
    return ".".join([*base, node.module] if node.module else base)


# ---------------------------------------------------------------------------------------------- components
@cache
def component(target: str) -> Component | None:
    """Return the component named by `target`; None if its source cannot be found or does not define the class."""
    module, _, name = target.rpartition(".")
    found = class_definition(module, name)
    if found is None:
        return None
    home, node = found
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    fields, takes_any = (dict(_fields(node, home)), False) if init is None else _arguments(init, home)
    doc = ast.get_docstring(node) or ""
    return Component(name, home, doc.partition("\n")[0], fields, takes_any, doc)


def default(target: str, name: str) -> object:
    """Return a field's default, with lists as tuples. Raises ValueError if it is neither a literal nor names one."""
    found = component(target)
    field = None if found is None else found.fields.get(name)
    if found is None or field is None or field.default is None:
        raise ValueError(f"{target} has no default for {name}")
    node: ast.expr = ast.parse(field.default, mode="eval").body
    module = found.module
    while isinstance(node, ast.Name | ast.Attribute):
        there = definition(module, last(node))
        if there is None or not isinstance(there[1], ast.Assign | ast.AnnAssign) or there[1].value is None:
            raise ValueError(f"{field.default} is not a literal")
        module, node = there[0], there[1].value
    return tuples(ast.literal_eval(node))


def text_constant(target: object, name: str) -> str:
    """Return a string class constant (see `constant`); empty if there is none."""
    value = constant(str(target), name)
    return value if isinstance(value, str) else ""


@cache
def constant(target: str, name: str) -> str | bool | None:
    """Return an annotated class constant of a component or its bases; None if no string or boolean has this name."""
    module, _, own = target.rpartition(".")
    found = class_definition(module, own)
    if found is None:
        return None
    home, node = found
    for line in node.body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=key), value=ast.Constant(value=str() | bool() as given)):
                if key == name:
                    return given
    held = (constant(f"{home}.{last(base)}", name) for base in node.bases)
    return next((value for value in held if value is not None), None)


def _fields(node: ast.ClassDef, module: str) -> Iterator[tuple[str, Field]]:
    """Yield (name, field) for each dataclass field, base classes first; classes that are not dataclasses add none."""
    for base in reversed(node.bases):
        if (found := class_definition(module, last(base))) is not None:
            yield from _fields(found[1], found[0])
    if not any(last(mark.func if isinstance(mark, ast.Call) else mark) == "dataclass" for mark in node.decorator_list):
        return
    for line in node.body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                default, given = _default(value)
                if given and not ast.unparse(annotation).startswith(("ClassVar", "typing.ClassVar")):
                    yield name, Field(name, evaluate(annotation, module), default, line.lineno)


def _default(value: ast.expr | None) -> tuple[str | None, bool]:
    """Return (default as source text, whether the field is a constructor argument)."""
    if isinstance(value, ast.Call) and last(value.func) == "field":
        words = {word.arg: word.value for word in value.keywords}
        if "init" in words and ast.unparse(words["init"]) == "False":
            return None, False
        chosen = words.get("default", words.get("default_factory"))
        return None if chosen is None else ast.unparse(chosen), True
    return None if value is None else ast.unparse(value), True


def _arguments(node: ast.FunctionDef, module: str) -> tuple[dict[str, Field], bool]:
    args = [*node.args.posonlyargs, *node.args.args]
    plain = [None] * (len(args) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = list(zip(args, plain))[1:] + list(zip(node.args.kwonlyargs, node.args.kw_defaults))
    fields = {
        arg.arg: Field(
            arg.arg,
            evaluate(arg.annotation, module) if arg.annotation else object,
            None if value is None else ast.unparse(value),
            arg.lineno,
        )
        for arg, value in pairs
    }
    return fields, node.args.kwarg is not None


def last(node: ast.expr) -> str:
    """Return the last part of a dotted name, without type arguments; empty for other expressions."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value):
            return last(value)
    return ""


# --------------------------------------------------------------------------------------------- annotations
def evaluate(node: ast.expr, module: str) -> object:
    """Return the type that an annotation describes; `object` if it is outside the fixed namespace."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return evaluate(ast.parse(text, mode="eval").body, module)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _union(evaluate(left, module), evaluate(right, module))
        case ast.Name() | ast.Attribute():
            return _named(last(node), module)
        case ast.Subscript(value=head, slice=inside):
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return _generic(last(head), parts, module)
    return object


def _union(*parts: object) -> object:
    return object if object in parts else Union[parts]  # noqa: UP007 (the parts are only known here)


def _named(name: str, module: str) -> object:
    if name in _NAMES:
        return _NAMES[name]
    if name in ("tuple", "list", "Sequence"):
        return tuple[object, ...]
    if name in ("dict", "Mapping"):
        return dict[str, object]
    found = definition(module, name)
    if found and isinstance(found[1], ast.Assign | ast.AnnAssign) and found[1].value is not None:
        return evaluate(found[1].value, found[0])
    if found and isinstance(found[1], ast.ClassDef) and found[0].startswith("nasx."):
        return ComponentNode
    return object


def _generic(head: str, parts: list[ast.expr], module: str) -> object:
    if head == "Literal":
        return Literal[tuple(ast.literal_eval(part) for part in parts)]
    if head in ("tuple", "Tuple"):
        inner = [... if ast.unparse(part) == "..." else evaluate(part, module) for part in parts]
        return tuple[tuple(inner)]  # type: ignore[misc]
    if head in ("list", "List", "Sequence"):
        return tuple[evaluate(parts[0], module), ...]  # type: ignore[misc]
    if head in ("dict", "Dict", "Mapping") and len(parts) == 2:
        return dict[evaluate(parts[0], module), evaluate(parts[1], module)]  # type: ignore[misc]
    if head == "Optional":
        return _union(evaluate(parts[0], module), None)
    if head == "Final":
        return evaluate(parts[0], module)
    return object


# -------------------------------------------------------------------------------------------------- values
_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    ComponentNode: "a component: a mapping with _target_",
}
_SIGNS = {Gt: "above {}", Ge: "at least {}", Le: "at most {}", Lt: "below {}"}
_BOUNDS = {Gt: "gt", Ge: "ge", Le: "le", Lt: "lt"}


def describe(annotation: object, *, bounds_only: bool = False) -> str:
    """Describe the valid values of a type, for example as 'a whole number above 0, or null'."""
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        bounds = " and ".join(_SIGNS[type(m)].format(getattr(m, _BOUNDS[type(m)])) for m in marks if type(m) in _SIGNS)
        return bounds if bounds_only else f"{describe(base)} {'that is ' * bounds.startswith('at ')}{bounds}".strip()
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)
        if inner[-1:] == (...,):
            return "a list" if inner[0] is object else f"a list in which each entry is {describe(inner[0])}"
        return f"a list of {len(inner)} entries: " + "; ".join(describe(part) for part in inner)
    if get_origin(annotation) is dict:
        return "a mapping"
    if get_origin(annotation) is Union or isinstance(annotation, type(int | None)):
        parts = sorted(get_args(annotation), key=lambda part: part is NoneType)
        return ", or ".join(describe(part) for part in parts)
    return _WORDS.get(annotation, "null" if annotation is None else "a value")


def tuples(value: object) -> object:
    """Return plain values with all lists converted to tuples."""
    if isinstance(value, list | tuple):
        return tuple(tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return value


def faults(fields: Mapping[str, Field], values: Mapping[str, object]) -> dict[str, str]:
    """Return field name -> 'must be ...' for each value that does not match its field. Unknown keys are ignored."""
    from pydantic import ValidationError

    known = {name: field for name, field in fields.items() if name in values}
    try:
        _model(tuple(known.items()))(**{f"f_{name}": tuples(values[name]) for name in known})
    except ValidationError as error:
        return {name: _must(known[name].annotation, found) for name, found in _by_field(error).items()}
    return {}


@cache
def _model(fields: tuple[tuple[str, Field], ...]) -> type[BaseModel]:
    """Create a pydantic model of `fields`; cached, because creating a model is much slower than using it."""
    from pydantic import ConfigDict, create_model

    config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), arbitrary_types_allowed=True
    )
    model: type[BaseModel] = create_model(
        "Values",
        __config__=config,  # pydantic checks the bounds; `f_` avoids its reserved names
        **{f"f_{name}": (field.annotation, ...) for name, field in fields},
    )  # type: ignore[call-overload]
    return model


def _by_field(error: ValidationError) -> dict[str, list[ErrorDetails]]:
    found: dict[str, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(str(item["loc"][0])[2:], []).append(item)
    return found


def _must(annotation: object, errors: list[ErrorDetails]) -> str:
    """Return 'must be ...' with only the bounds if the type is correct, otherwise with the full description."""
    bounds = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
    arms = get_args(annotation) if get_origin(annotation) is not Annotated else ()
    single = next((arm for arm in (annotation, *arms) if get_origin(arm) is Annotated), None)
    if single is not None and errors[0]["type"] in bounds and get_origin(annotation) not in (tuple, dict):
        null = ", or null" if NoneType in arms else ""
        return f"must be {describe(single, bounds_only=True)}{null}"
    return f"must be {describe(annotation)}"
