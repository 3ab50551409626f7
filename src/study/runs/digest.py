"""A digest of any value that a run is made of, the same in every process and session.

Values count by their content. A function counts by what it does: its instructions and constants, its defaults, what it closes
over, and what it uses of its module, in turn. So does a notebook's class. What comes from a package counts by its name and the
package's version, and what comes from the code that RUN_CODE lists by its name alone: whoever uses a digest adds that code's own.

Where a digest could miss something that decides the result, it is refused: Undigestible says what. Known to be missed: what an
extension written in C reads, and files below a folder that a function names by parts of a relative path.
"""

import dis
import hashlib
import importlib
import os
import sys
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch

# Modules and packages of ours that decide a run's numbers.
RUN_CODE = (
    "supcl.losses", "supcl.pairs", "supcl.tiled", "supcl.modules", "study.data", "study.training", "study.runs", "study.probes",
    "study.methods", "study.tables",
)  # fmt: skip
# A function that uses one of these names reads what cannot be seen by looking at it.
HIDDEN = {
    "open", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "imread", "read", "read_csv", "read_text", "read_bytes",
    "iterdir", "glob", "rglob", "listdir", "scandir", "environ", "getenv", "eval", "exec", "globals", "__import__",
    "import_module", "splits_of", "features_of", "frozen_batch", "read_runs", "as_reported",
}  # fmt: skip

# In a class: where it was written, and what Python adds.
OF_NO_EFFECT = {"__dict__", "__weakref__", "__module__", "__firstlineno__", "__static_attributes__"}


class Undigestible(TypeError):
    """A value of which no dependable digest can be made; the message says why."""


def digest(value, special=None):
    """Hexadecimal digits that stand for the value. Raises Undigestible.

    special  {type: function of a value of exactly this type}, which returns bytes to stand for it, or None for the usual way.
    """
    return _Walk(special or {}).of(value).hex()


def of_bytes(*parts):
    """Of byte strings, arrays among them; where one ends and the next begins counts."""
    state = hashlib.blake2b(digest_size=20)
    for part in parts:
        state.update(len(part).to_bytes(8) if isinstance(part, bytes) else part.nbytes.to_bytes(8))
        state.update(part)
    return state.digest()


class _Walk:
    def __init__(self, special):
        self.special, self.open = special, []

    def of(self, value):
        """Digest of a value, and of all that it holds."""
        if id(value) in self.open:  # it holds itself
            return of_bytes(b"open", str(self.open.index(id(value))).encode())
        self.open.append(id(value))
        try:
            return of_bytes(_name(type(value)).encode(), self._content(value))
        finally:
            self.open.pop()

    def _all(self, *values):
        return of_bytes(*map(self.of, values))

    def _content(self, x):
        kind = type(x)
        if kind in self.special and (stands_for := self.special[kind](x)) is not None:
            return stands_for
        if x is None or x is Ellipsis or kind in (bool, int, float, complex, bytes):
            return repr(x).encode()
        if isinstance(x, str | PurePath):
            return self._text(x)
        if kind in (list, tuple):
            return self._all(*x)
        if kind is dict:
            return self._all(*x.keys(), *x.values())
        if kind in (set, frozenset):
            return of_bytes(*sorted(map(self.of, x)))
        if kind is torch.dtype:
            return str(x).encode()
        if isinstance(x, torch.Tensor):
            return self._tensor(x)
        if isinstance(x, np.ndarray | np.generic):
            return self._array(x)
        return self._of_code(x)

    def _text(self, x):
        """A file counts by its name and content, wherever it lies."""
        text = str(x)
        if os.path.isfile(text):
            place = b"" if os.path.isabs(text) else text.encode()
            return of_bytes(os.path.basename(text).encode(), Path(text).read_bytes(), place)
        if isinstance(x, PurePath) or text.strip("/") and os.path.isabs(text) and os.path.isdir(text):
            raise Undigestible(f"{text} is a folder or no file yet, and what is read below it cannot be known")
        return text.encode(errors="surrogatepass")

    def _tensor(self, x):
        if x.layout != torch.strided or x.is_quantized:
            raise Undigestible(f"a tensor is {x.layout}, which has no plain content")
        plain = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return of_bytes(str((x.dtype, tuple(x.shape), str(x.device), x.requires_grad)).encode(), plain)

    def _array(self, x):
        if x.dtype.hasobject:
            return of_bytes(str(x.shape).encode(), self.of(x.tolist()))
        return of_bytes(str((x.dtype.descr, x.shape)).encode(), np.ascontiguousarray(x).reshape(-1).view(np.uint8))

    def _of_code(self, x):
        """Modules, functions, classes, and instances by their class and state."""
        if isinstance(x, ModuleType):
            return self._module(x)
        if isinstance(x, CodeType):
            return self._code(x)
        if (named := _by_name(x)) is not None:
            return named
        if isinstance(x, FunctionType):
            return self._function(x)
        if isinstance(x, MethodType):
            return self._all(x.__func__, x.__self__)
        if isinstance(x, CellType):
            return self._all(x.cell_contents)
        if isinstance(x, type):
            own = {name: value for name, value in vars(x).items() if name not in OF_NO_EFFECT}
            return self._all(x.__qualname__, x.__bases__, *(of for item in own.items() for of in item))
        return self._instance(x)

    def _module(self, x):
        if (version := _version(x.__name__)) is None:
            raise Undigestible(f"module {x.__name__} has no version, and is not among the code of runs")
        return of_bytes(x.__name__.encode(), version.encode())

    def _function(self, f):
        names, hidden = _names(f.__code__), _attributes(f.__code__) & HIDDEN
        if hidden:
            raise Undigestible(f"{f.__qualname__} uses {', '.join(sorted(hidden))}, and what that reads cannot be known")
        uses = {name: f.__globals__[name] for name in sorted(names & f.__globals__.keys())}
        imports = [importlib.import_module(name) for name in sorted(_imported(f.__code__))]
        try:
            return self._all(f.__code__, f.__defaults__, f.__kwdefaults__, f.__closure__, uses, imports, f.__dict__)
        except ValueError as error:  # of an empty cell
            raise Undigestible(f"{f.__qualname__}: {error}") from None

    def _code(self, c):
        shape = (c.co_argcount, c.co_posonlyargcount, c.co_kwonlyargcount, c.co_flags, c.co_code, c.co_exceptiontable)
        names = [" ".join(group).encode() for group in (c.co_names, c.co_varnames, c.co_freevars, c.co_cellvars)]
        return self._all(*shape, c.co_consts, *names)

    def _instance(self, x):
        """As pickle would take it apart."""
        try:
            parts = x.__reduce_ex__(4)
        except Exception as error:
            raise Undigestible(f"a {_name(type(x))} cannot be taken apart: {error}") from None
        if isinstance(parts, str):
            raise Undigestible(f"{parts} of {getattr(x, '__module__', '?')} is known by that name alone")
        function, arguments, state, items, pairs, *_ = (*parts, None, None, None, None)
        return self._all(function, arguments, state, items and list(items), pairs and list(pairs))


def _name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


def _by_name(x):
    """What stands for something that a package, or the code of runs, has under its own name; None for what is not so."""
    if isinstance(x, BuiltinFunctionType) and isinstance(x.__self__, type):  # torch.relu, say
        x, method = x.__self__, x.__name__
    else:
        method = ""
    module, name = getattr(x, "__module__", None), getattr(x, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)) or (version := _version(module)) is None:
        return None
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return of_bytes(module.encode(), name.encode(), method.encode(), version.encode()) if found is x else None


def _version(module):
    """Of the package that a module is of; "" for the code of runs; None for what has none."""
    top = module.partition(".")[0]
    if any(module == name or module.startswith(name + ".") for name in RUN_CODE):
        return ""
    if top in ("study", "supcl", "__main__"):
        return None
    if top in sys.stdlib_module_names:
        return sys.version
    version = getattr(sys.modules.get(top), "__version__", None)
    return str(version) if version else None


def _codes(code):
    """A function's code, and that of the functions and classes inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code):
    """Names that it takes from its module."""
    return {i.argval for i in _instructions(code) if "GLOBAL" in i.opname or i.opname == "LOAD_NAME"}


def _imported(code):
    """Modules that it imports itself."""
    return {i.argval for i in _instructions(code) if i.opname == "IMPORT_NAME"}


def _instructions(code):
    return (instruction for c in _codes(code) for instruction in dis.get_instructions(c))


def _attributes(code):
    """Names that it takes from anywhere."""
    return {name for c in _codes(code) for name in c.co_names}
