"""Functions by dotted path, for references that cross a process boundary."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def path_of(function: Callable[..., Any]) -> str | None:
    """The dotted path by which another process can import *function*, or `None`.

    Lambdas, closures, bound methods and callable instances have none.
    """
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not module or not name or "<" in name or module == "__main__":
        return None
    path = f"{module}.{name}"
    try:
        found = resolve(path)
    except ImportError:
        return None
    return path if found is function else None


def is_importable(function: Callable[..., Any]) -> bool:
    return path_of(function) is not None


def resolve(path: str) -> Any:
    """Import the object at *path*: a module's attribute, or an attribute of a class in it.

    Raises `ImportError` that names the path and the missing part.
    """
    module_path, _, rest = path.rpartition(".")
    names = [rest]
    while module_path:
        try:
            found: Any = import_module(module_path)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_path}.".startswith(f"{error.name}."):
                raise  # the module exists, but one of its imports does not
            module_path, _, rest = module_path.rpartition(".")
            names.insert(0, rest)
            continue
        return _attribute(found, names, path)
    raise ImportError(f"{path!r} cannot be imported: there is no module {names[0]!r}")


def describe(function: Callable[..., Any]) -> str:
    """*function* as a dotted path, even if it cannot be imported."""
    name = getattr(function, "__qualname__", None)
    if name is None:
        return f"{type(function).__module__}.{type(function).__qualname__} object"
    return f"{getattr(function, '__module__', '?')}.{name}"


def _attribute(found: Any, names: list[str], path: str) -> Any:
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ImportError(f"{path!r} cannot be imported: {found!r} has no {name!r}") from None
    return found
