"""The reader for shortcuts: right solutions in many styles reach nothing forbidden, wrong ones do, and it runs nothing."""

import importlib
import inspect

import pytest

from attncourse.check import CHECKS
from attncourse.check.core import READY_MADE_ATTENTION
from attncourse.grade.wall.shortcuts import Reading, shortcut

HEAD = "import math, torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"
BY_HAND = """
def attend(q, k, v):
    out = torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v
    return out
"""

RIGHT = {
    "a function of the same name": [
        HEAD,
        "def scaled_dot_product_attention(q,k,v):\n    return torch.softmax(q@k.T,-1)@v\ndef attend(q,k,v): return scaled_dot_product_attention(q,k,v)",
    ],
    "scratch out": [HEAD, BY_HAND, "out = F.scaled_dot_product_attention(q,k,v)"],
    "arg q": [HEAD, BY_HAND, "q = F.scaled_dot_product_attention(a,b,c)"],
    "one line import": [
        HEAD,
        "from torch.nn.functional import scaled_dot_product_attention, softmax\ndef attend(q,k,v): return softmax(q@k.T,-1)@v",
    ],
    "expected": [
        HEAD,
        BY_HAND,
        "expected = F.scaled_dot_product_attention(q,k,v)\nassert torch.allclose(expected, attend(q,k,v))",
    ],
    "docstring": [HEAD, "def attend(q,k,v):\n    'scaled_dot_product_attention'\n    return q"],
    "message": [
        HEAD,
        "def attend(q,k,v):\n    assert q.ndim==2, 'as scaled_dot_product_attention'\n    print('scaled_dot_product_attention')\n    return q",
    ],
    "comment": [HEAD, "def attend(q,k,v):\n    # F.scaled_dot_product_attention\n    return q"],
    "replaced": [HEAD, "def attend(q,k,v): return F.scaled_dot_product_attention(q,k,v)", BY_HAND],
    "own method": [
        HEAD,
        "class A:\n    def scaled_dot_product_attention(self,q,k,v): return q\n    def f(self,q,k,v): return self.scaled_dot_product_attention(q,k,v)\ndef attend(q,k,v): return A().f(q,k,v)",
    ],
    "own static": [
        HEAD,
        "class A:\n    @staticmethod\n    def flash_attention(q): return q\ndef attend(q,k,v): return A.flash_attention(q)",
    ],
    "reference helper": [
        HEAD,
        "def reference(q,k,v): return F.scaled_dot_product_attention(q,k,v)",
        BY_HAND,
        "print((attend(q,k,v)-reference(q,k,v)).abs().max())",
    ],
    "loop var": [HEAD, BY_HAND, "for out in [F.scaled_dot_product_attention(q,k,v)]: print(out)"],
    "comp": [HEAD, "def attend(q,k,v): return torch.stack([x for x in q])", "x = F.scaled_dot_product_attention"],
    "lambda param": [HEAD, "attend = lambda q,k,v: (lambda f: f)(q)", "f = F.scaled_dot_product_attention"],
    "nested local": [
        HEAD,
        "def attend(q,k,v):\n    def inner(expected): return expected\n    return inner(q)",
        "expected = F.scaled_dot_product_attention(1,2,3)",
    ],
    "local var named": [
        HEAD,
        "def attend(q,k,v):\n    scaled_dot_product_attention = q@k.T\n    return scaled_dot_product_attention@v",
    ],
    "time": [HEAD, "%%time\n" + BY_HAND.lstrip(), "%time ref = F.scaled_dot_product_attention(q,k,v)"],
    "timeit": [HEAD, BY_HAND, "%timeit F.scaled_dot_product_attention(q,k,v)"],
    "dict of impl": [
        HEAD,
        BY_HAND,
        "impls = {'mine': attend, 'torch': F.scaled_dot_product_attention}\nfor n, f in impls.items(): f(q,k,v)",
    ],
    "results": [HEAD, BY_HAND, "results=[]\nresults.append(F.scaled_dot_product_attention(q,k,v))"],
    "class scratch": [HEAD, BY_HAND, "mha = nn.MultiheadAttention(4,1)\nmha(q,k,v)"],
    "own_attr": [
        HEAD,
        "class S:\n    def __init__(self): self.flash_attention = 1\ns=S()\ndef attend(q,k,v): return q*s.flash_attention",
    ],
    "test fn": [
        HEAD,
        BY_HAND,
        "def test():\n    out = F.scaled_dot_product_attention(q,k,v)\n    assert torch.allclose(out, attend(q,k,v))\ntest()",
    ],
    "kwarg": [HEAD, "def g(q, flash_attention=False): return q\ndef attend(q,k,v): return g(q, flash_attention=True)"],
    "global q after": [
        HEAD,
        "def attend(q,k,v):\n    q = q/2\n    return q@k.T@v",
        "q,k,v = torch.randn(3,4,4)\nq = F.scaled_dot_product_attention(q,k,v)",
    ],
}

WRONG = {
    "plain": [HEAD, "def attend(q,k,v): return F.scaled_dot_product_attention(q,k,v)"],
    "alias top": [HEAD, "attn = F.scaled_dot_product_attention\ndef attend(q,k,v): return attn(q,k,v)"],
    "alias is": [HEAD, "attend = F.scaled_dot_product_attention"],
    "chain": [HEAD, "a = F.scaled_dot_product_attention\nb = a\nc = b\ndef attend(q,k,v): return c(q,k,v)"],
    "chain hidden": [HEAD, "a = F.scaled_dot_product_attention\nb = a\na = None\ndef attend(q,k,v): return b(q,k,v)"],
    "import as": [
        "import torch\nfrom torch.nn.functional import scaled_dot_product_attention as s",
        "def attend(q,k,v): return s(q,k,v)",
    ],
    "import in fn": [
        "def attend(q,k,v):\n    from torch.nn.functional import scaled_dot_product_attention as s\n    return s(q,k,v)"
    ],
    "star": ["from torch.nn.functional import *\ndef attend(q,k,v): return scaled_dot_product_attention(q,k,v)"],
    "class attr": [HEAD, "class A:\n    f = F.scaled_dot_product_attention\ndef attend(q,k,v): return A.f(q,k,v)"],
    "inst attr": [
        HEAD,
        "class A: pass\na=A()\na.f = F.scaled_dot_product_attention\ndef attend(q,k,v): return a.f(q,k,v)",
    ],
    "partial": [HEAD, "import functools\nattend = functools.partial(F.scaled_dot_product_attention, dropout_p=0.)"],
    "default": [HEAD, "def attend(q,k,v,f=F.scaled_dot_product_attention): return f(q,k,v)"],
    "deco": [HEAD, "def d(f): return F.scaled_dot_product_attention\n@d\ndef attend(q,k,v): return q"],
    "lambda": [HEAD, "attend = lambda q,k,v: F.scaled_dot_product_attention(q,k,v)"],
    "getattr": [HEAD, "def attend(q,k,v): return getattr(F,'scaled_dot_product_attention')(q,k,v)"],
    "getattr pieces": [HEAD, "def attend(q,k,v): return getattr(F,'scaled_dot_'+'product_attention')(q,k,v)"],
    "getattr fstr": [HEAD, "P='product'\ndef attend(q,k,v): return getattr(F,f'scaled_dot_{P}_attention')(q,k,v)"],
    "getattr join": [
        HEAD,
        "def attend(q,k,v): return getattr(F,'_'.join(['scaled','dot','product','attention']))(q,k,v)",
    ],
    "vars": [HEAD, "def attend(q,k,v): return vars(F)['scaled_dot_product_attention'](q,k,v)"],
    "dict": [HEAD, "def attend(q,k,v): return F.__dict__['scaled_dot_product_attention'](q,k,v)"],
    "attrgetter": [
        HEAD,
        "import operator\ndef attend(q,k,v): return operator.attrgetter('nn.functional.scaled_dot_product_attention')(torch)(q,k,v)",
    ],
    "math": [HEAD, "def attend(q,k,v): return torch._scaled_dot_product_attention_math(q,k,v)[0]"],
    "aten": [HEAD, "def attend(q,k,v): return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q,k,v)[0]"],
    "mha": [HEAD, "layer = nn.MultiheadAttention(4,1)\ndef attend(q,k,v): return layer(q,k,v)[0]"],
    "mha2": [HEAD, "def attend(q,k,v): return torch.nn.MultiheadAttention(4,1)(q,k,v)[0]"],
    "lib param": [HEAD, "def attend(q,k,v,lib=F): return lib.scaled_dot_product_attention(q,k,v)"],
    "local lib": [
        HEAD,
        "def attend(q,k,v):\n    lib = torch.nn.functional\n    return lib.scaled_dot_product_attention(q,k,v)",
    ],
    "table": [HEAD, "t={}\nt['a']=F.scaled_dot_product_attention\ndef attend(q,k,v): return t['a'](q,k,v)"],
    "list": [HEAD, "t=[]\nt.append(F.scaled_dot_product_attention)\ndef attend(q,k,v): return t[0](q,k,v)"],
    "helper": [HEAD, "def help(*x): return F.scaled_dot_product_attention(*x)\ndef attend(q,k,v): return help(q,k,v)"],
    "own name same": [
        HEAD,
        "def scaled_dot_product_attention(q,k,v):\n    return F.scaled_dot_product_attention(q,k,v)\ndef attend(q,k,v): return scaled_dot_product_attention(q,k,v)",
    ],
    "reads expected": [HEAD, "expected = F.scaled_dot_product_attention(q,k,v)\ndef attend(q,k,v): return expected"],
    "if": [
        HEAD,
        "if True:\n    s = F.scaled_dot_product_attention\nelse:\n    s = None\ndef attend(q,k,v): return s(q,k,v)",
    ],
    "try": [
        "try:\n    from torch.nn.functional import scaled_dot_product_attention as s\nexcept ImportError: s=None\ndef attend(q,k,v): return s(q,k,v)"
    ],
    "walrus": [HEAD, "(s := F.scaled_dot_product_attention)\ndef attend(q,k,v): return s(q,k,v)"],
    "tuple": [HEAD, "s, t = F.scaled_dot_product_attention, 1\ndef attend(q,k,v): return s(q,k,v)"],
    "wrapped": [
        HEAD,
        "def attend(q,k,v): return F.scaled_dot_product_attention(q,k,v)\nattend = torch.no_grad()(attend)",
    ],
    "global": [
        HEAD,
        "def init():\n    global s\n    s = F.scaled_dot_product_attention\ninit()\ndef attend(q,k,v): return s(q,k,v)",
    ],
    "time": [HEAD, "%%time\ndef attend(q,k,v): return F.scaled_dot_product_attention(q,k,v)"],
    "capture time": [HEAD, "%%capture\n%%time\n!ls\ndef attend(q,k,v): return F.scaled_dot_product_attention(q,k,v)"],
    "line time": [HEAD, "%time s = F.scaled_dot_product_attention", "def attend(q,k,v): return s(q,k,v)"],
    "flex": [
        "from torch.nn.attention.flex_attention import flex_attention\ndef attend(q,k,v): return flex_attention(q,k,v)"
    ],
    "evade": [HEAD, "def attend(q,k,v):\n    with getattr(torch._C, 'Disable'+'TorchFunction')():\n        return q"],
    "evade reversed": [
        HEAD,
        "def attend(q,k,v):\n    with getattr(torch._C, 'noitcnuFhcroTelbasiD'[::-1])():\n        return q",
    ],
    "importlib": [
        "import importlib\ndef attend(q,k,v): return importlib.import_module('torch.nn.functional').scaled_dot_product_attention(q,k,v)"
    ],
    "eval": [HEAD, "def attend(q,k,v): return eval('F.scaled_dot_product_attention')(q,k,v)"],
    "nested": [
        HEAD,
        "def attend(q,k,v):\n    def inner(): return F.scaled_dot_product_attention(q,k,v)\n    return inner()",
    ],
    "comp": [
        HEAD,
        "def attend(q,k,v): return torch.stack([F.scaled_dot_product_attention(a,b,c) for a,b,c in zip(q,k,v)])",
    ],
    "with": [HEAD, "with torch.no_grad():\n    s = F.scaled_dot_product_attention\ndef attend(q,k,v): return s(q,k,v)"],
    "module path": [
        "import torch.nn.functional\ndef attend(q,k,v): return torch.nn.functional.scaled_dot_product_attention(q,k,v)"
    ],
    "await": [
        "import torch.nn.functional as F, asyncio\nawait asyncio.sleep(0)\ndef attend(q,k,v): return F.scaled_dot_product_attention(q,k,v)"
    ],
    "async": [
        HEAD,
        "def attend(q,k,v):\n    import asyncio\n    async def a(): return F.scaled_dot_product_attention(q,k,v)\n    return asyncio.run(a())",
    ],
}

PRODUCT = ("matmul", "mm", "einsum", "__matmul__", "linear")


@pytest.mark.parametrize("style", RIGHT)
def test_a_right_solution_reaches_nothing_forbidden(style):
    assert shortcut(RIGHT[style], "attend", READY_MADE_ATTENTION) == ""


@pytest.mark.parametrize("trick", WRONG)
def test_a_shortcut_is_found(trick):
    assert shortcut(WRONG[trick], "attend", READY_MADE_ATTENTION)


@pytest.mark.parametrize(
    "source, found",
    [
        ("def product(a, b, out):\n    mm = 3\n    linear = a.symmetric\n    return out", ""),
        ("def product(a, b, out):\n    return summary(a)\n\ndef summary(a):\n    return a", ""),
        ("def product(a, b, out):\n    return out\n\na = 1\nout = torch.matmul(a, b)", ""),
        ("def product(a, b):\n    return torch.addmm(a, a, b)", "addmm"),
        ("def product(a, b):\n    return a.mm(b)", "mm"),
        ("import numpy as np\ndef product(a, b):\n    return np.matmul(a, b)", "matmul"),
        ("product = F.linear", "linear"),
    ],
)
def test_short_names_are_pytorch_s_own_and_no_parts_of_the_learner_s(source, found):
    assert shortcut([HEAD, source], "product", PRODUCT) == found


def test_what_is_no_python_defines_nothing_and_nothing_forbidden_is_nothing_found():
    assert shortcut(["def f(:", "def f(x): return x"], "f", ("softmax",)) == ""
    assert shortcut([HEAD, "def f(x): return F.softmax(x)"], "f", ()) == ""
    assert shortcut([HEAD, "def f(x): return g(x)\ndef g(x): return f(F.softmax(x))"], "f", ("softmax",)) == "softmax"
    assert shortcut(["f = " + "(" * 400 + ")" * 400, "def f(): pass"], "f", ("softmax",)) == ""


def test_no_cell_is_run_while_it_is_read():
    Reading(["raise SystemExit(1)", "%run nothing.py", "!false", "%time 1 / 0"])


@pytest.mark.parametrize("unit", sorted({check.unit for check in CHECKS.values() if check.forbids}))
def test_self_check_and_grade_agree_on_every_solution_of_the_banks(unit):
    """What the grade has beside the self-check is the reader: of what is right it finds nothing.

    What is wrong is wrong to both, whatever the reader finds.
    """
    bank = importlib.import_module(f"tests.banks.{unit}")
    reading = Reading([inspect.getsource(bank)])
    forbidding = [check for check in CHECKS.values() if check.unit == unit and check.forbids]
    right = [(check, function.__name__) for check in forbidding for function in bank.BANK[check.name].right]
    assert len(right) >= 2 * len(forbidding)
    for check, name in right:
        assert reading.reached(name).foreign, f"{name} was not read"
        assert reading.shortcut(name, check.forbids) == "", name
