"""Run a program whose functions are tested, and answer calls of them, one line of JSON each.

`grader` copies the text of this file after `prelude` and `wire`, and runs it inside the sandbox.  A
request holds the callee, its arguments and its keywords.  An answer is the token and the plain data
of the result.  No expected value enters this process.  Whatever the program does to this process,
it can only return values that it could have computed.
"""

import json
import os
import sys
import types

from rlvr_jax.host.rules.programs.prelude import NODES, provide_names
from rlvr_jax.host.rules.programs.wire import decode, encode


def take_pipes():
    """Return the pipes from and to the grader; the program itself reads and prints nothing."""
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(2, 0)  # the standard error is /dev/null, which has no path in the sandbox
    os.dup2(2, 1)
    return requests, answers


def find_callee(scope, objects, path):
    """Return the object that a request calls, by its path.

    The path begins with the name of a function or class, or with the number of a kept object; the
    names of attributes follow.  A class on the path is called to make an instance.
    """
    first, *rest = path
    if isinstance(first, int):
        value = objects[first]
    elif first in scope:
        value = scope[first]
    elif "Solution" in scope and hasattr(scope["Solution"], first):
        value = getattr(scope["Solution"](), first)
    else:
        value = NODES[first]
    for name in rest:
        value = getattr(value() if isinstance(value, type) else value, name)
    return value


def answer_calls(source, token):
    """Run a program, then answer requests until they end; each answer begins with `token`."""
    requests, answers = take_pipes()
    sys.setrecursionlimit(50_000)  # judges of functions allow deep recursion
    program = sys.modules["program"] = types.ModuleType("program")
    code = compile(source, "program", "exec")
    provide_names(code)
    try:
        exec(code, program.__dict__)
    except SystemExit:
        pass  # the functions above it are defined
    objects = []

    def keep(value):
        objects.append(value)
        return len(objects) - 1

    for line in requests:
        path, arguments, keywords = json.loads(line)
        try:
            callee = find_callee(program.__dict__, objects, path)
            arguments = decode(arguments, list, objects.__getitem__)
            keywords = decode(keywords, list, objects.__getitem__)
            answer = json.dumps({"value": encode(callee(*arguments, **keywords), keep)})
        except BaseException as error:
            answer = json.dumps({"raised": type(error).__name__})
        answers.write(token + answer + "\n")
        answers.flush()
