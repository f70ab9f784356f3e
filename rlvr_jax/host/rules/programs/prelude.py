"""Start the process of every tested program: provide names that programs use without imports.

`grader` copies the text of this file in front of the program, inside the sandbox.  Solutions of
LeetCode and the data sets made from it are written for a judge that has already imported typing,
collections, math and others.  Here such a name becomes a builtin if the program mentions it, so
that a definition of the program's own comes first, and nothing unused is imported.
"""

import builtins
import importlib
import sys
import types

MODULES = (
    "bisect collections copy datetime functools heapq io itertools json math operator os random re "
    "statistics string sys time typing"
).split()
NAMES = {
    "typing": "List Dict Set FrozenSet Tuple Optional Union Any Callable Iterable Iterator "
    "Generator Sequence Mapping Type TypeVar Generic Deque DefaultDict NamedTuple Literal Hashable",
    "collections": "Counter OrderedDict defaultdict deque namedtuple ChainMap",
    "math": "inf nan pi e gcd lcm sqrt isqrt ceil floor factorial comb perm log log2 log10 exp "
    "hypot prod sin cos tan atan atan2 fabs isclose",
    "heapq": "heapify heappush heappop heappushpop heapreplace nlargest nsmallest",
    "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
    "itertools": "accumulate chain combinations combinations_with_replacement count cycle groupby "
    "islice pairwise permutations product repeat starmap takewhile zip_longest",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "operator": "itemgetter attrgetter mul xor",
    "copy": "deepcopy",
    "datetime": "timedelta",
    "dataclasses": "dataclass field",
}
HOMES = {name: module for module, names in NAMES.items() for name in names.split()}


class ListNode:
    """A ListNode is a node of LeetCode's linked lists."""

    def __init__(self, val=0, next=None):
        self.val, self.next = val, next


class TreeNode:
    """A TreeNode is a node of LeetCode's binary trees."""

    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right


NODES = {"ListNode": ListNode, "TreeNode": TreeNode}


def provide_names(code):
    """Add to the builtins those names of NODES, HOMES and MODULES that a program's code mentions.

    The names `exit` and `quit` are added too.
    """
    codes = [code]
    for part in codes:
        codes += [constant for constant in part.co_consts if isinstance(constant, types.CodeType)]
        for name in part.co_names:
            if hasattr(builtins, name):
                continue
            if name in NODES:
                setattr(builtins, name, NODES[name])
            elif name in HOMES:
                setattr(builtins, name, getattr(importlib.import_module(HOMES[name]), name))
            elif name in MODULES:
                setattr(builtins, name, importlib.import_module(name))
            elif name in ("exit", "quit"):
                setattr(builtins, name, sys.exit)  # the interpreter runs without `site`


def run_main(source):
    """Run a program as the main module."""
    code = compile(source, "program", "exec")
    provide_names(code)
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(code, main.__dict__)
