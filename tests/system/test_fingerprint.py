"""The fingerprint of code: it moves when something moves that can change a number, and never else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from normbench.system import fingerprint, source_tree
from normbench.system.errors import UserError
from normbench.system.fingerprint import EFFECTS, Root, closure, one_reading
from tests.support.sample_sources import closure_of, digest, reached, write

ROOT = Path(__file__).resolve().parents[2]

SAMPLE = {
    "pkg/__init__.py": '"""A package."""\n\nVERSION = 1\n',
    "pkg/errors.py": """
        class Wrong(Exception):
            status = 1


        def described(value):
            return f"the value {value}"
        """,
    "pkg/kinds.py": "class Image:\n    size = 3\n",
    "pkg/parts.py": """
        import torch

        STEPS = 10
        torch.backends.flag = True


        class Base:
            def forward(self, x):
                return x


        class Layer(Base):
            gain = 1.5

            def __init__(self, groups):
                self.groups = groups

            def forward(self, x):
                return super().forward(x) * self.gain

            def unused(self):
                return inner()


        def inner():
            return 5


        def scale(x, rate=0.5):
            return x * rate


        def untouched():
            return 9
        """,
    "pkg/train.py": '''
        """Trains."""

        from __future__ import annotations

        import logging
        import math
        import warnings
        from dataclasses import dataclass
        from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, overload

        import numpy as np

        from pkg import parts
        from pkg.errors import Wrong, described
        from pkg.parts import Layer, scale as scaled

        if TYPE_CHECKING:
            from pkg.kinds import Image

        log = logging.getLogger(__name__)
        RATE = 0.1  # of learning
        UNUSED = 3
        first, second = 1, 2
        try:
            import fast
        except ImportError:
            fast = None


        class Keeper(Protocol):
            def save(self) -> None: ...


        @dataclass(frozen=True)
        class Options:
            """What can be chosen."""

            eps: float = 1e-5
            """Added to the variance."""
            groups: int = 2
            known: ClassVar[int] = 7

            def doubled(self) -> float:
                return 2 * self.eps


        def decorated(function: Any) -> Any:
            return function


        @overload
        def size(x: int) -> int: ...
        def size(x):
            return x if x else 1


        @decorated
        def fit(image: Image, options: Options = Options(), keeper: Keeper | None = None, *, rest=(1, 2)) -> float:
            """Trains."""
            from pkg.kinds import Image

            total: float = 0.0
            assert len(image) > 0, "an image is needed"
            if len(image) == 99:
                raise Wrong(f"{described(image)} is large")
            for index in range(parts.STEPS):
                total += scaled(index, RATE) + math.sqrt(first) - size(index)
                log.info("step %d", index)
                if index % 5 == 0:
                    print("still here")
            layer = Layer(options.groups)
            values = [value * second for value in image if fast is None]
            print(f"trained to {total:.2f}", described(total))
            warnings.warn("slow", stacklevel=2)
            logging.warning("slower")
            return cast(float, layer.forward(total)) + np.mean(values)


        def another(problem: Wrong | None = None) -> int:
            return UNUSED


        if __name__ == "__main__":
            another()
        ''',
}
FIT = "pkg/train.py:fit"

# file, text, what it becomes
EDITS_THAT_MOVE_NOTHING = {
    "docstring of a module": ("train", '"""Trains."""\n\nfrom', '"""Does what."""\n\nfrom'),
    "no docstring of a module": ("train", '"""Trains."""\n\nfrom', "from"),
    "docstring of a function": ("train", '    """Trains."""\n', '    """Trains it well."""\n'),
    "no docstring of a function": ("train", '    """Trains."""\n', ""),
    "docstring of a class": ("train", '"""What can be chosen."""', '"""Choices."""'),
    "docstring of an attribute": ("train", '"""Added to the variance."""', '"""A small number."""'),
    "docstring of an error": ("errors", "class Wrong(Exception):\n", 'class Wrong(Exception):\n    """Bad."""\n'),
    "comment": ("train", "# of learning", "# how fast"),
    "formatting": ("train", "total += scaled(index, RATE)", "total += (\n            scaled(index,\n  RATE)  )"),
    "quotes": ("train", '"slow"', "'slow'"),
    "the same number": ("train", "1e-5", "0.00001"),
    "trailing comma and brackets": ("parts", "return x * rate", "return (x * rate)"),
    "place in the file": ("parts", "STEPS = 10\n", "\n\n\nSTEPS = 10\n"),
    "annotation of an argument": ("train", "image: Image,", "image: list[Image],"),
    "no annotation of an argument": ("train", "image: Image,", "image,"),
    "annotation of what is returned": ("train", "-> float:\n    \"\"\"", "-> int:\n    \"\"\""),
    "annotation of a variable": ("train", "total: float = 0.0", "total: int = 0.0"),
    "no annotation of a variable": ("train", "total: float = 0.0", "total = 0.0"),
    "a declared variable": ("train", "total: float = 0.0", "layer: Layer\n    total: float = 0.0"),
    "annotation of a constant": ("train", "RATE = 0.1", "RATE: float = 0.1"),
    "annotation of a field": ("train", "eps: float", "eps: int"),
    "annotation of a class variable": ("train", "ClassVar[int]", "ClassVar[float]"),
    "a protocol": ("train", "def save(self) -> None: ...", "def save(self) -> None: ...\n    def load(self): ..."),
    "an import for types": ("train", "from pkg.kinds import Image\n\nlog", "from pkg.kinds import Other\n\nlog"),
    "a type": ("kinds", "size = 3", "size = 4"),
    "an overload": ("train", "def size(x: int) -> int: ...", "def size(x: int, y: int = 1) -> str: ..."),
    "the type of a cast": ("train", "cast(float, layer", "cast(int, layer"),
    "no cast": ("train", "cast(float, layer.forward(total))", "layer.forward(total)"),
    "words of an error": ("train", "is large", "is too large"),
    "a helper of an error's words": ("errors", "the value", "value"),
    "another helper of an error's words": ("train", 'raise Wrong(f"{described(image)} is large")', "raise Wrong"),
    "an error's class": ("errors", "status = 1", "status = 2"),
    "the cause of an error": ("train", 'is large")', 'is large") from None'),
    "words of an assertion": ("train", '"an image is needed"', 'f"{described(image)} is needed"'),
    "no words of an assertion": ("train", ', "an image is needed"', ""),
    "what is printed": ("train", "trained to", "the loss is"),
    "nothing printed": ("train", '    print(f"trained to {total:.2f}", described(total))\n', ""),
    "nothing printed at times": ("train", "        if index % 5 == 0:\n            print(\"still here\")\n", ""),
    "printed elsewhere at times": ("train", 'print("still here")', 'print("here")\n            print("still")'),
    "what is logged": ("train", "step %d", "%d"),
    "nothing logged": ("train", '        log.info("step %d", index)\n', ""),
    "logged otherwise": ("train", 'logging.warning("slower")', 'logging.getLogger("x").error("slow")'),
    "what is warned of": ("train", 'warnings.warn("slow", stacklevel=2)', 'warnings.warn("very slow")'),
    "a function that nobody calls": ("parts", "return 9", "return 10"),
    "no function that nobody calls": ("parts", "def untouched():\n    return 9\n", ""),
    "a new function": ("parts", "def inner", "def new():\n    return scale(1)\n\n\ndef inner"),
    "a constant that nobody uses": ("train", "UNUSED = 3", "UNUSED = 4"),
    "a constant of a package that nobody uses": ("__init__", "VERSION = 1", "VERSION = 2"),
    "a script": ("train", "    another()\n", "    another()\n    fit([2.0])\n"),
    "an import that nobody uses": ("train", "import math\n", "import json\nimport math\n"),
    "an import in a function that nobody uses": ("train", "    from pkg.kinds import Image\n\n    total", "    total"),
    "pass": ("train", "        log.info(", "        pass\n        log.info("),
    "order of definitions": ("train", "RATE = 0.1  # of learning\nUNUSED = 3", "UNUSED = 3\nRATE = 0.1"),
}  # fmt: skip
EDITS_THAT_MOVE = {
    "a number": ("parts", "return x * rate", "return x * rate * 2"),
    "a constant": ("train", "RATE = 0.1", "RATE = 0.2"),
    "the kind of a constant": ("train", "groups: int = 2", "groups: int = 2.0"),
    "one of two constants": ("train", "first, second = 1, 2", "first, second = 1, 3"),
    "a constant by attribute": ("parts", "STEPS = 10", "STEPS = 11"),
    "an argument's default": ("parts", "rate=0.5", "rate=0.6"),
    "a default among the keyword-only": ("train", "rest=(1, 2)", "rest=(1, 3)"),
    "an argument's name": ("parts", "def scale(x, rate=0.5)", "def scale(x, ratio=0.5)"),
    "a keyword-only argument": ("train", "*, rest", "rest"),
    "a default object's class": ("train", "return 2 * self.eps", "return 3 * self.eps"),
    "a field's default": ("train", "1e-5", "1e-6"),
    "a field": ("train", "groups: int = 2\n", "groups: int = 2\n    more: int = 2\n"),
    "a field without a default": ("train", "eps: float", "more: int\n    eps: float"),
    "the order of fields": (
        "train",
        'eps: float = 1e-5\n    """Added to the variance."""\n    groups: int = 2\n',
        "groups: int = 2\n    eps: float = 1e-5\n",
    ),
    "no field but an attribute": ("train", "groups: int = 2", "groups = 2"),
    "no field but a class variable": ("train", "groups: int", "groups: ClassVar[int]"),
    "no class variable but a field": ("train", "ClassVar[int]", "int"),
    "an argument of the initializer alone": ("train", "groups: int", "groups: InitVar[int]"),
    "a decorator": ("train", "@decorated\n", ""),
    "what a decorator does": ("train", "return function\n", "return staticmethod(function)\n"),
    "a class's decorator": ("train", "frozen=True", "frozen=False"),
    "a method": ("parts", "forward(x) * self.gain", "forward(x) + self.gain"),
    "a method that is not called here": ("parts", "return inner()", "return inner() + 1"),
    "what such a method calls": ("parts", "return 5", "return 6"),
    "a base class": ("parts", "return x\n", "return -x\n"),
    "another base class": ("parts", "class Layer(Base)", "class Layer(object)"),
    "an attribute of a class": ("parts", "gain = 1.5", "gain = 1.25"),
    "a condition": ("train", "len(image) == 99", "len(image) == 98"),
    "the condition of an assertion": ("train", "len(image) > 0", "len(image) > 1"),
    "the name of an error's class": ("train", "raise Wrong(", "raise ValueError("),
    "an error that is caught": ("train", "except ImportError", "except OSError"),
    "a value at its import": ("train", "fast = None", "fast = 1"),
    "what is tried to be imported": ("train", "import fast", "import faster as fast"),
    "an effect of a module": ("parts", "flag = True", "flag = False"),
    "a new effect of a module": ("parts", "STEPS = 10\n", "STEPS = 10\ntorch.manual_seed(0)\n"),
    "an effect of a package": ("__init__", "VERSION = 1", "import torch\ntorch.manual_seed(0)"),
    "an installed function": ("train", "np.mean", "np.median"),
    "an installed module": ("train", "import numpy as np", "import jax.numpy as np"),
    "a built-in function": ("train", "range(", "reversed("),
    "a built-in function's place": ("train", "def decorated", "def range(x):\n    return [1]\n\n\ndef decorated"),
    "an import": ("train", "from pkg.parts import Layer, scale as", "from pkg.parts import Layer, inner as"),
    "order of statements": ("train", "    layer = Layer(options.groups)\n    values", "    values"),
    "a comprehension": ("train", "value * second", "value + second"),
    "the format of a value that is kept": ("train", "np.mean(values)", 'float(f"{1:.3f}")'),
    "an operator": ("train", "total += scaled", "total -= scaled"),
    "what is returned": ("train", "return x if x else 1", "return x"),
    "a branch": ("train", 'print("still here")', "total = 0.0"),
}  # fmt: skip


def edited(file: str, old: str, new: str) -> dict[str, str]:
    """The sample with one text of it replaced, which must be there once."""
    texts = {name: dedent(text) for name, text in SAMPLE.items()}
    name = f"pkg/{file}.py"
    assert texts[name].count(old) == 1, (old, texts[name].count(old))
    return texts | {name: texts[name].replace(old, new)}


@pytest.mark.parametrize("edit", EDITS_THAT_MOVE_NOTHING)
def test_what_changes_no_number_moves_nothing(tmp_path: Path, edit: str) -> None:
    assert digest(tmp_path, edited(*EDITS_THAT_MOVE_NOTHING[edit]), FIT) == digest(tmp_path, SAMPLE, FIT)


@pytest.mark.parametrize("edit", EDITS_THAT_MOVE)
def test_what_can_change_a_number_moves_it(tmp_path: Path, edit: str) -> None:
    assert digest(tmp_path, edited(*EDITS_THAT_MOVE[edit]), FIT) != digest(tmp_path, SAMPLE, FIT)


def test_the_definitions_of_the_sample(tmp_path: Path) -> None:
    assert reached(tmp_path, SAMPLE, FIT) == {
        *(
            "train.(effects)",
            "train.RATE",
            "train.first",
            "train.second",
            "train.fast",
            "train.Options",
            "train.decorated",
            "train.size",
        ),
        *("train.fit", "parts.STEPS", "parts.Layer", "parts.Base", "parts.inner", "parts.scale", f"parts.{EFFECTS}"),
    }
    files = [path.name for path in closure_of(tmp_path, SAMPLE, FIT).files]
    assert files == ["parts.py", "train.py"]


G = "def g():\n    return 1\n"

REACHED = {
    "a name": ({"a": f"{G}def f():\n    return g()"}, {"a.f", "a.g"}),
    "a function as a value": ({"a": f"{G}def f():\n    return [g]"}, {"a.f", "a.g"}),
    "from a module": ({"a": "from pkg.b import g\ndef f(): return g()", "b": G}, {"a.f", "b.g"}),
    "under another name": ({"a": "from pkg.b import g as h\ndef f(): return h()", "b": G}, {"a.f", "b.g"}),
    "from a module in a function": ({"a": "def f():\n    from pkg.b import g\n    return g()", "b": G}, {"a.f", "b.g"}),
    "used in a function within": (
        {"a": "def f():\n    from pkg.b import g\n    def h(): return g()\n    return h", "b": G},
        {"a.f", "b.g"},
    ),
    "relative": ({"a": "from .b import g\ndef f(): return g()", "b": G}, {"a.f", "b.g"}),
    "a relative module": ({"a": "from . import b\ndef f(): return b.g()", "b": G + "x = 1"}, {"a.f", "b.g"}),
    "two dots": (
        {"sub/__init__": "", "sub/a": "from ..b import g\ndef f(): return g()", "b": G, "a": "from pkg.sub.a import f"},
        {"sub.a.f", "b.g"},
    ),
    "module by its path": ({"a": "import pkg.b\ndef f(): return pkg.b.g()", "b": G + "x = 1"}, {"a.f", "b.g"}),
    "module as": ({"a": "import pkg.b as c\ndef f(): return c.g()", "b": G + "x = 1"}, {"a.f", "b.g"}),
    "module of a package": ({"a": "from pkg import b\ndef f(): return b.g()", "b": G + "x = 1"}, {"a.f", "b.g"}),
    "attribute of what is found": ({"a": "from pkg import b\ndef f(): return b.C.x.y", "b": "class C: x = 1\nz = 1"}, {"a.f", "b.C"}),
    "a re-export": ({"a": "from pkg.sub import g\ndef f(): return g()", "sub/__init__": "from pkg.b import g", "b": G}, {"a.f", "b.g"}),
    "a re-export by attribute": ({"a": "from pkg import sub\ndef f(): return sub.h()", "sub/__init__": "from .b import g as h", "sub/b": G}, {"a.f", "sub.b.g"}),
    "a re-export of the name of its module": ({"a": "from pkg.sub import g\ndef f(): return g()", "sub/__init__": "from .g import g", "sub/g": G}, {"a.f", "sub.g.g"}),
    "a package that imports its own module": ({"a": "from pkg import sub\ndef f(): return sub.b.g()", "sub/__init__": "from . import b", "sub/b": G + "x = 1"}, {"a.f", "sub.b.g"}),
    "a package's __getattr__": (
        {"a": "from pkg.sub import lazy\ndef f(): return lazy()", "sub/__init__": f"{G}x = 1\ndef __getattr__(name): return g()"},
        {"a.f", "sub.__init__.__getattr__", "sub.__init__.g"},
    ),
    "a module rather than __getattr__": (
        {"a": "from pkg import sub\ndef f(): return sub.b.g()", "sub/__init__": "def __getattr__(name): return 1", "sub/b": G},
        {"a.f", "sub.b.g"},
    ),
    "what is not found": ({"a": "from pkg import b\ndef f(): return b.missing", "b": G}, {"a.f"}),
    "a module passed on": ({"a": "from pkg import b\ndef f(): return vars(b)", "b": G + "x = 1"}, {"a.f", "b.g", "b.x"}),
    "a package passed on": (
        {"a": "from pkg import sub\ndef f(): return vars(sub)", "sub/__init__": "import math\nfrom .b import g", "sub/b": G + "x = 1"},
        {"a.f", "sub.b.g"},
    ),
    "what a module passed on only imports": (
        {"a": "from pkg import b\ndef f(): return vars(b)", "b": "from pkg.c import g, h\n__all__ = ['h']\nx = g", "c": G + "def h(): pass\ny = 1"},
        {"a.f", "b.x", "c.g", "c.h"},
    ),
    "a star": ({"a": "from pkg.b import *\ndef f(): return g()", "b": G + "x = 1"}, {"a.f", f"a.{EFFECTS}", "b.g", "b.x"}),
    "a star of stars": ({"a": "from pkg.b import g\ndef f(): return g()", "b": "from pkg.c import *", "c": G}, {"a.f", "c.g"}),
    "an import for its effects": ({"a": "import pkg.b\ndef f(): return 1", "b": "import torch\ntorch.x = 1"}, {"a.f", f"a.{EFFECTS}", f"b.{EFFECTS}"}),
    "a module for its effects": ({"a": "from pkg import b\ndef f(): return 1", "b": G}, {"a.f", f"a.{EFFECTS}", "b.g"}),
    "a module that a docstring alone mentions": ({"a": "from pkg import b\ndef f():\n    'As b.'", "b": G}, {"a.f", f"a.{EFFECTS}", "b.g"}),
    "nothing that is imported for no use": ({"a": "from pkg.b import g\ndef f(): return 1", "b": G}, {"a.f"}),
    "no type in a function": (
        {"a": "from typing import TYPE_CHECKING\ndef f():\n    if TYPE_CHECKING:\n        from pkg.b import T\n        y = T\n    return 1", "b": "T = int"},
        {"a.f"},
    ),
    "no type": ({"a": "from pkg.b import T\ndef f(x: T) -> 'T':\n    y: T = x\n    return y", "b": "T = int"}, {"a.f"}),
    "a base class": ({"a": "class B: pass\nclass C(B): pass\ndef f(): return C()"}, {"a.f", "a.C", "a.B"}),
    "a default": ({"a": f"{G}def f(x=g): return x"}, {"a.f", "a.g"}),
    "a default of a lambda": ({"a": f"{G}def f(): return lambda g=g: g"}, {"a.f", "a.g"}),
    "itself": ({"a": "def f(n): return f(n - 1)"}, {"a.f"}),
    "each other": ({"a": "def f(n): return g(n)\ndef g(n): return f(n)"}, {"a.f", "a.g"}),
    "modules in a circle": ({"a": "from pkg import b\ndef f(): return b.g()\ndef h(): pass", "b": "from pkg import a\ndef g(): return a.f(), a.h()"}, {"a.f", "a.h", "b.g"}),
    "a global variable": ({"a": "count = 0\ndef f():\n    global count\n    count = 1"}, {"a.f", "a.count"}),
    "all statements of a name": ({"a": f"{G}x = []\nx += [g()]\ndef f(): return x"}, {"a.f", "a.x", "a.g", f"a.{EFFECTS}"}),
    "what an effect adds to": ({"a": "x = []\nx += [1]\ndef f(): return 1"}, {"a.f", "a.x", f"a.{EFFECTS}"}),
    "an import that is wrapped": ({"a": "from pkg.b import g\ng = max(g, 1)\ndef f(): return g()", "b": G + "x = 1"}, {"a.f", "a.g", "b.g"}),
    "an import that is tried": ({"a": "try:\n    from pkg.b import g\nexcept ImportError:\n    g = None\ndef f(): return g()", "b": G + "x = 1"}, {"a.f", "a.g", "b.g"}),
    "one of two": ({"a": f"{G}if g():\n    def h(): pass\nelse:\n    def h(): return 1\ndef f(): return h()"}, {"a.f", "a.g", "a.h"}),
    "a logger that is kept": ({"a": "import logging\nlog = logging.getLogger()\ndef f(): return log.level"}, {"a.f", "a.log"}),
    "an effect's names": ({"a": f"{G}g().x = 1\ndef f(): return 1"}, {"a.f", "a.g", f"a.{EFFECTS}"}),
    "a caught error": ({"a": "class E(Exception): pass\ndef f():\n    try:\n        raise E('x')\n    except E:\n        return 1"}, {"a.f", "a.E"}),
}  # fmt: skip


@pytest.mark.parametrize("case", REACHED)
def test_names_are_followed(tmp_path: Path, case: str) -> None:
    sources, expected = REACHED[case]
    named = {f"pkg/{name}.py": f"{text}\n" for name, text in ({"__init__": ""} | sources).items()}
    assert reached(tmp_path, named) == expected


SHADOWED = {
    "argument": "def f(g): return g()",
    "positional argument": "def f(g, /): return g()",
    "keyword-only argument": "def f(*, g): return g()",
    "*arguments": "def f(*g): return g",
    "**arguments": "def f(**g): return g",
    "variable": "def f():\n    g = 1\n    return g",
    "variable that is assigned later": "def f(x):\n    if x: return g\n    g = 1",
    "annotated variable": "def f():\n    g: int\n    return g",
    "loop": "def f():\n    for g in []: print(g)\n    return g",
    "with": "def f(x):\n    with x as g: return g",
    "walrus": "def f(x): return (g := x) + g",
    "walrus in a comprehension": "def f(x):\n    y = [g := z for z in x]\n    return g",
    "caught": "def f(x):\n    try: x()\n    except ValueError as g: return g",
    "unpacked": "def f(x):\n    (a, *g) = x\n    return g",
    "match": "def f(x):\n    match x:\n        case [g]: return g",
    "match the rest": "def f(x):\n    match x:\n        case {'a': 1, **g}: return g",
    "match the others": "def f(x):\n    match x:\n        case [1, *g]: return g",
    "function": "def f():\n    def g(): return 2\n    return g()",
    "class": "def f():\n    class g: pass\n    return g()",
    "import": "def f():\n    import math as g\n    return g.pi",
    "lambda": "def f(): return lambda g: g",
    "comprehension": "def f(x): return [g for g in x]",
    "generator": "def f(x): return sum(g for g in x)",
    "dictionary": "def f(x): return {g: 1 for g in x}",
    "second loop of a comprehension": "def f(x): return [h for g in x for h in g]",
    "variable of the function around": "def f(g):\n    def h(): return g\n    return h",
    "nonlocal": "def f(x):\n    g = 1\n    def h():\n        nonlocal g\n        g = x\n    return h",
    "attribute of a class": "class f:\n    g = 1\n    h = g",
    "type parameter": "" if sys.version_info < (3, 12) else "def f[g](x): return g",
    "attribute of something else": "def f(x): return x.g",
    "keyword": "def f(x): return x(g=1)",
}
NOT_SHADOWED = {
    "iterable of a comprehension": "def f(): return [g for g in g]",
    "outside of a comprehension": "def f(x): return [g for g in x] + [g()]",
    "default": "def f(g=g): return g",
    "decorator": "@g\ndef f(g): return g",
    "another function's variable": "def f():\n    def h(g): return g\n    return g",
    "attribute of the class around": "class f:\n    g = 1\n    def h(self): return g()",
    "attribute that comes later": "class f:\n    h = g\n    g = 1",
    "attribute that may not be there": "class f:\n    if input():\n        g = 1\n    h = g",
    "comprehension in a class": "class f:\n    g = 1\n    h = [g for x in range(3)]",
    "global": "def f():\n    global g\n    g = 2",
    "global in the function around": "def f():\n    g = 1\n    def h():\n        global g\n        return g\n    return h",
}  # fmt: skip


@pytest.mark.parametrize("case", SHADOWED)
def test_a_local_name_is_not_the_modules(tmp_path: Path, case: str) -> None:
    if not SHADOWED[case]:
        pytest.skip("syntax of a later Python")
    assert reached(tmp_path, {"pkg/a.py": f"{G}\n{SHADOWED[case]}\n"}) == {"a.f"}


@pytest.mark.parametrize("case", NOT_SHADOWED)
def test_a_name_of_the_module_is_not_a_local_one(tmp_path: Path, case: str) -> None:
    found = reached(tmp_path, {"pkg/a.py": f"{G}\n{NOT_SHADOWED[case]}\n"})
    assert found - {"a.(effects)"} == {"a.f", "a.g"}  # A decorator may have an effect too.


H = "def h():\n    return 2\n"
USER = "def f():\n    return g() + h()\n"
HERE = {"pkg/__init__.py": "", "pkg/a.py": G + H + USER}
SAME = {
    "one definition in another file": {"pkg/a.py": f"from pkg.b import g\n{H}{USER}", "pkg/b.py": G},
    "a split file": {"pkg/a.py": f"from pkg.b import g\nfrom pkg.c import h\n{USER}", "pkg/b.py": G, "pkg/c.py": H},
    "the root in another file": {"pkg/a.py": "from pkg.b import f", "pkg/b.py": G + H + USER},
    "in a package below": {"pkg/a.py": f"from .sub.b import g, h\n{USER}", "pkg/sub/__init__.py": "", "pkg/sub/b.py": G + H},
    "another package": {"pkg/a.py": "from .. import other\nfrom other.b import f", "other/__init__.py": "", "other/b.py": G + H + USER},
    "no package": {"pkg/a.py": f"from b import g\n{H}{USER}", "pkg/b.py": G},
    "by attribute": {"pkg/a.py": f"from pkg import b\n{H}{USER.replace('g()', 'b.g()')}", "pkg/b.py": G},
    "by path": {"pkg/a.py": f"import pkg.b\n{H}{USER.replace('g()', 'pkg.b.g()')}", "pkg/b.py": G},
    "by another name": {"pkg/a.py": f"from pkg.b import g as k\n{H}{USER.replace('g()', 'k()')}", "pkg/b.py": G},
    "imported in the function": {"pkg/a.py": H + USER.replace("    return", "    from pkg.b import g\n    return"), "pkg/b.py": G},
    "another order": {"pkg/a.py": USER + H + G},
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_files_and_modules_are_not_in_the_digest(tmp_path: Path, case: str) -> None:
    package = {} if case == "no package" else {"pkg/__init__.py": ""}
    assert digest(tmp_path, package | SAME[case]) == digest(tmp_path, HERE)


def test_whole_files_are_hashed_alike_when_one_is_split(tmp_path: Path) -> None:
    whole = digest(tmp_path, HERE, "pkg/a.py")
    assert whole == digest(tmp_path, {"pkg/__init__.py": ""} | SAME["a split file"], "pkg/a.py")
    assert whole != digest(tmp_path, {"pkg/a.py": G + H + USER + "x = 1\n"}, "pkg/a.py")


def test_installed_names_are_the_same_however_they_are_imported(tmp_path: Path) -> None:
    forms = {
        "from torch.nn import functional\ndef f(x): return functional.relu(x)",
        "import torch.nn.functional as F\ndef f(x): return F.relu(x)",
        "import torch\ndef f(x): return torch.nn.functional.relu(x)",
        "def f(x):\n    from torch.nn.functional import relu\n    return relu(x)",
    }
    assert len({digest(tmp_path, {"pkg/a.py": form}) for form in forms}) == 1


def test_definitions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Also where their own texts are equal and only what they refer to differs."""
    files = {"pkg/__init__.py": "", "pkg/b.py": "X = 1\ndef g(): return X\n", "pkg/c.py": "X = 2\ndef g(): return X\n"}
    one = {"pkg/a.py": "from pkg import b, c\ndef f(): return b.g() - c.g()"}
    two = {"pkg/a.py": "from pkg import b, c\ndef f(): return c.g() - b.g()"}
    assert digest(tmp_path, files | one) != digest(tmp_path, files | two)


def test_a_definition_in_two_files_is_one(tmp_path: Path) -> None:
    files = {"pkg/__init__.py": "", "pkg/b.py": G, "pkg/c.py": f"{G}def k(): return g()\n"}
    twice = {"pkg/a.py": "from pkg.b import g\nfrom pkg.c import k\ndef f(): return g() + k()"}
    once = {"pkg/a.py": "from pkg.c import g, k\ndef f(): return g() + k()"}
    assert digest(tmp_path, files | twice) == digest(tmp_path, files | once)


EFFECTIVE = {
    "call": "torch.use(1)",
    "loop": "for i in range(3): torch.use(i)",
    "while": "while torch.use(1): pass",
    "with": "with torch.off(): y = 1",
    "del": "del torch.x",
    "augmented": "torch.x += 1",
    "attribute": "torch.x = 1",
    "annotated attribute": "torch.x: int = 1",
    "subscript": "torch.x['a'] = 1",
    "unpacked": "y, torch.x = 1, 2",
    "under a condition": "if torch.a:\n    torch.use(1)",
    "otherwise": "if torch.a:\n    y = 1\nelse:\n    torch.use(1)",
    "tried": "try:\n    torch.use(1)\nexcept ValueError:\n    y = 1",
    "caught": "try:\n    y = 1\nexcept ValueError:\n    torch.use(1)",
    "at last": "try:\n    y = 1\nfinally:\n    torch.use(1)",
}
WITHOUT_EFFECT = {
    "constant": "y = torch.use(1)",
    "text": "'text'",
    "print": "print(torch.use(1))",
    "warning": "import warnings\nwarnings.warn('old')",
    "logging": "import logging\nlogging.basicConfig(level=1)",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    torch.use(1)",
    "for types by attribute": "import typing\nif typing.TYPE_CHECKING:\n    torch.use(1)",
    "as a script": "if __name__ == '__main__':\n    torch.use(1)",
    "as a script, turned round": "if '__main__' == __name__:\n    torch.use(1)",
    "definitions under a condition": "if torch.a:\n    y = 1\nelse:\n    def y(): pass",
    "exports": "__all__ = []\n__all__ += ['f']",
    "declaration": "y: int",
    "assertion": "assert torch",
}


@pytest.mark.parametrize("where", ["module", "package"])
@pytest.mark.parametrize("case", [*EFFECTIVE, *WITHOUT_EFFECT])
def test_effects_of_an_import(tmp_path: Path, case: str, where: str) -> None:
    text = f"import torch\n{(EFFECTIVE | WITHOUT_EFFECT)[case]}\n"
    plain = {"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/a.py": "def f(): return 1\n"}
    name = "pkg/sub/a.py" if where == "module" else "pkg/__init__.py"
    moved = digest(tmp_path, plain, "pkg/sub/a.py:f") != digest(
        tmp_path, plain | {name: text + plain[name]}, "pkg/sub/a.py:f"
    )
    assert moved == (case in EFFECTIVE)


def test_the_order_of_effects_counts(tmp_path: Path) -> None:
    one, two = "import torch\ntorch.x = 1\n", "torch.use(2)\n"
    here, there = ({"pkg/a.py": f"import torch\n{x}{y}def f(): pass"} for x, y in ((one, two), (two, one)))
    assert digest(tmp_path, here) != digest(tmp_path, there)


def test_what_holds_otherwise_than_for_types_counts(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    g = 1\nelse:\n    g = 2\ndef f(): return g\n"
    assert digest(tmp_path, {"pkg/a.py": text}) == digest(tmp_path, {"pkg/a.py": text.replace("g = 1", "g = 4")})
    assert digest(tmp_path, {"pkg/a.py": text}) != digest(tmp_path, {"pkg/a.py": text.replace("g = 2", "g = 3")})


EQUAL = {
    "only a text in an f-string": ("f'a' 'b'", "f'ab'"),
    "an empty format": ("f'{x:}'", "f'{x}'"),
    "an empty text in an f-string": ("f'{x}' ''", "f'{x}'"),
    "hexadecimal": ("0x10", "16"),
    "underscore": ("1_000", "1000"),
    "text joined": ("'a' 'b'", "'ab'"),
    "u": ("u'a'", "'a'"),
}
DIFFERENT = {
    "true and one": ("True", "1"),
    "one and 1.0": ("1", "1.0"),
    "bytes": ("b'a'", "'a'"),
    "nothing and none": ("[]", "[None]"),
    "conversion": ("f'{x!r}'", "f'{x}'"),
    "format": ("f'{x:.2f}'", "f'{x:.3f}'"),
    "format by a value": ("f'{x:{x}}'", "f'{x:x}'"),
    "unpacked": ("{**x, 'a': 1}", "{'a': 1, **x}"),
    "bounds": ("x[1:]", "x[:1]"),
    "keyword": ("x(1)", "x(a=1)"),
    "none and ellipsis": ("None", "..."),
    "arguments": ("lambda a, b: 1", "lambda a, *b: 1"),
    "defaults": ("lambda *, a, b=1: 1", "lambda *, a=1, b: 1"),
    "condition of a comprehension": ("[a for a in x if a]", "[a for a in x]"),
    "a local name and the module's": ("x", "g"),
    "two names of the module": ("g(h)", "h(g)"),
}


@pytest.mark.parametrize("case", [*EQUAL, *DIFFERENT])
def test_expressions(tmp_path: Path, case: str) -> None:
    first, second = (
        digest(tmp_path, {"pkg/a.py": f"g, h = 1, 2\ndef f(x): return {expression}, [g, h]"})
        for expression in (EQUAL | DIFFERENT)[case]
    )
    assert (first == second) == (case in EQUAL)


# Outside of the package


def test_a_method_of_ones_own_is_followed_beside_itself_and_into_normbench(tmp_path: Path) -> None:
    sources = {
        "mine/a.py": "import b\nimport json\nimport sub.c\nfrom mine.d import k\nfrom normbench.system.seeds import derive\n"
        "def f(): return b.g(), sub.c.h(), k(), derive(0), json",
        "mine/b.py": G,
        "mine/sub/__init__.py": "",
        "mine/sub/c.py": f"import b\nfrom . import d\n{H}x = b.g, d.y\n".replace("return 2", "return x"),
        "mine/sub/d.py": "y = 1\n",
        "mine/d.py": "def k(): pass\n",
    }  # fmt: skip
    found = closure_of(tmp_path, sources, "mine/a.py:f").definitions
    assert {name for _, name in found} == {"f", "g", "h", "x", "y", "k", "derive"}
    assert (ROOT / "normbench/system/seeds.py", "derive") in found


def test_a_folder_of_the_name_of_something_installed_hides_nothing(tmp_path: Path) -> None:
    plain = {"mine/a.py": "import torch\ndef f(): return torch.nn.functional"}
    beside = digest(tmp_path, plain | {"mine/torch/notes.txt": "x"}, "mine/a.py:f")
    assert beside == digest(tmp_path, plain, "mine/a.py:f")


def test_what_is_installed_is_followed_within_itself_alone(tmp_path: Path) -> None:
    sources = {
        "site-packages/theirs/__init__.py": "",
        "site-packages/theirs/a.py": "import other, alone\nfrom theirs.b import g\ndef f(): return g(), other.h(), alone.k()",
        "site-packages/theirs/b.py": G,
        "site-packages/other/__init__.py": H,
        "site-packages/alone.py": "import other\nfrom theirs.b import g\ndef k(): return other.h(), g()\n",
    }  # fmt: skip
    assert reached(tmp_path, sources, "site-packages/theirs/a.py:f") == {"theirs.a.f", "theirs.b.g"}
    assert reached(tmp_path, sources, "site-packages/alone.py:k") == {"alone.k"}


# Mistakes, the cache, differences


@pytest.mark.parametrize("text", ["x = 1\ndef f(:\n    pass\n", "x = 1\ny = '\n"])
def test_a_file_that_is_no_python_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"a\.py, line 2: "):
        closure_of(tmp_path, {"pkg/a.py": text})
    with pytest.raises(UserError, match=r"b\.py, line 2: "):
        closure_of(tmp_path, {"pkg/a.py": "from b import g\ndef f(): return g()", "pkg/b.py": text})


def test_a_file_with_a_zero_byte_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.py, line"):
        closure_of(tmp_path, {"pkg/a.py": "x = 1\0"})


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.py defines no fitt; did you mean 'fit'"):
        closure_of(tmp_path, {"pkg/a.py": "def fit(): pass"}, "pkg/a.py:fitt")
    with pytest.raises(UserError, match=r"none\.py: No such file"):
        closure([Root(tmp_path / "none.py", "f")])
    with pytest.raises(UserError, match="defines no sqrt"):
        closure_of(tmp_path, {"pkg/a.py": "from math import sqrt"}, "pkg/a.py:sqrt")


def test_nothing_is_imported(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    closure_of(tmp_path / "x", {"pkg/a.py": f"open({str(mark)!r}, 'w').close()\ndef f(): pass"})
    assert not mark.exists()


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = source_tree.parse
    monkeypatch.setattr(source_tree, "parse", lambda file, text: parsed.append(file.name) or parse(file, text))
    write(tmp_path, {"pkg/a.py": "from b import g\ndef f(): return g()", "pkg/b.py": G})
    root = [Root(tmp_path / "pkg/a.py", "f")]
    first = closure(root).digest
    assert closure(root).digest == first
    assert parsed == ["a.py", "b.py"]
    (tmp_path / "pkg/b.py").write_text(G.replace("1", "7"))
    os.utime(tmp_path / "pkg/b.py", ns=(1, 1))
    assert closure(root).digest != first
    assert parsed == ["a.py", "b.py", "b.py"]


def test_in_one_reading_all_closures_are_of_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str | None] = []
    node = fingerprint._node
    monkeypatch.setattr(fingerprint, "_node", lambda tree, place: made.append(place.name) or node(tree, place))
    write(tmp_path, {"pkg/a.py": "from b import g\ndef f(): return g()\ndef h(): return g()", "pkg/b.py": G})
    roots = [[Root(tmp_path / "pkg/a.py", name)] for name in ("f", "h")]
    apart = [closure(root) for root in roots]
    made.clear()
    with one_reading():
        together = [closure(roots[0])]
        (tmp_path / "pkg/b.py").write_text(G.replace("1", "22"))
        together.append(closure(roots[1]))
    assert [each.digest for each in together] == [each.digest for each in apart]
    assert [each.definitions for each in together] == [each.definitions for each in apart]
    assert sorted(name for name in made if name and name != EFFECTS) == ["f", "g", "h"]
    assert closure(roots[1]).digest != apart[1].digest


# The same on every version of Python

GOLDEN = "e648d02cfbfb2a944867eb96e1fdf0884b4d7520c9ecda9d5aafe7f92018cb43"
GOLDEN_SOURCE = '''
"""A bit of everything."""
import asyncio, functools, torch
from dataclasses import dataclass
from torch.nn import functional as F

NUMBERS = {1: 1.5, 0x20: 1e300, -3: 2j, True: None, "é\\u2028\\U0001fae8": b"\\xff", ...: 10**3, **{}}


@dataclass(frozen=True)
class Options:
    """Choices."""

    eps: float = 1e-5
    names: "tuple[str, ...]" = ()

    @property
    def half(self): return self.eps / 2


class Empty(Options, metaclass=type): ...


async def waits(x, /, y: int = 1, *args, z, w=2, **kwargs):
    async with x as q, y:
        async for i in x: await i
    return [i async for i in x if i], {k: v for k, v in x}, {i for i in x}, (yield)


@functools.cache
def f(x, *, text="a"):
    """Does it."""
    global NUMBERS
    first, *rest = x[1:2, ::3, ...]
    try:
        assert x, f"bad {x}"
    except* (ValueError, KeyError) as error:
        raise RuntimeError(f"{error}") from error
    else:
        pass
    finally:
        del first
    with torch.no_grad(), (torch.enable_grad()): rest += [lambda a, *b, c=1, **d: a @ b]
    while (n := len(rest)) < 3 and not x or x is None:
        if n: continue
        elif rest: break
        else: n |= 1
    match x:
        case {"a": [1, *others], **more} if others: return more
        case Options(eps=0.5) | None | -1: return (n if n else ~n) << 2
        case str() as name: return name
        case _: pass
    return f"{x!r:>{n}} {{}} {x=} {text:.{n}f}" "end" f"" f"{F.relu(x):}", Empty(), waits, NUMBERS[1], asyncio
'''
DIGESTS = """
import sys
from pathlib import Path
from normbench.system.fingerprint import Root, closure
for file, name in zip(sys.argv[1::2], sys.argv[2::2]):
    print(closure([Root(Path(file), name)]).digest)
"""
VERSIONS = [path for name in ("3.11.7", "3.12.1", "3.13.0") if (path := Path.home() / f".pyenv/versions/{name}/bin/python").is_file()]  # fmt: skip


def test_the_digest_of_a_sample_stays_as_it_is(tmp_path: Path) -> None:
    """A change here makes every run missing: it takes a reason."""
    assert digest(tmp_path, {"pkg/a.py": GOLDEN_SOURCE}) == GOLDEN


@pytest.mark.parametrize("python", VERSIONS, ids=lambda path: path.parents[1].name)
def test_every_version_of_python_gives_the_same(tmp_path: Path, python: Path) -> None:
    """Also without any package installed."""
    write(tmp_path, {"pkg/a.py": GOLDEN_SOURCE})
    loop = ROOT / "normbench/training/loop.py"
    run = subprocess.run(
        [python, "-S", "-c", DIGESTS, tmp_path / "pkg/a.py", "f", loop, "fit"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split() == [GOLDEN, closure([Root(loop, "fit")]).digest]


# This project


def test_the_training_loop_is_fingerprinted_fast() -> None:
    roots = [
        Root(ROOT / f"normbench/{file}.py", name)
        for file, name in (("training/loop", "fit"), ("models/resnet", "resnet8"), ("methods/batch_norm", "BatchNorm"))
    ]
    found = closure(roots)
    assert len(found.digest) == 64
    names = {name for _, name in found.definitions}
    assert {"fit", "step_loss", "derive", "Division", "ResNet", "Block", "BatchNorm", "Method"} <= names
    assert not {"resnet20", "Keeper", "UserError", "training_set"} & names


def test_the_whole_project_can_be_read() -> None:
    paths = sorted((ROOT / "normbench").rglob("*.py"))
    found = closure(Root(path) for path in paths)
    assert len(found.digest) == 64
    assert {path for path in paths if path.name != "__init__.py"} <= set(found.files)


def test_a_definition_that_a_decorator_puts_into_a_table_counts(tmp_path: Path) -> None:
    """It is called through the table, and not by its name."""
    source = """
        BLOCKS = {}


        def block(name):
            def register(function):
                BLOCKS[name] = function
                return function

            return register


        @block("basic")
        def basic(x):
            return x * 2


        def f(kind):
            return BLOCKS[kind]
        """
    before = digest(tmp_path, {"pkg/a.py": source})
    assert digest(tmp_path, {"pkg/a.py": source.replace("x * 2", "x * 3")}) != before
    marked = source.replace("def block", "@registers\n        def block").replace(
        "BLOCKS = {}", "from normbench.system.plugins import registers\n\n        BLOCKS = {}"
    )
    assert digest(tmp_path, {"pkg/a.py": marked}) == digest(tmp_path, {"pkg/a.py": marked.replace("x * 2", "x * 3")})
