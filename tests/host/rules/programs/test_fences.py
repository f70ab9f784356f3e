"""The program of a completion: which code block, and where it ends."""

import pytest

from rlvr_jax.host.rules.programs import fences


@pytest.mark.parametrize(
    "completion",
    [
        "```py\nX\n```",
        "```Python3.11\nX\n```",
        "``` {.python}\nX\n```",
        "~~~py\nX\n~~~",
        "````python\nX\n````",
        "Here: ```python\r\nX\r\n```\r\nDone.",
        "1. ```python\n   X\n   ```",
        '```python file="b.py"\nX\n```',
        "```\nX\n```\n\nOutput:\n```\n7\n```",
        "```\nX\n```\n\nOutput:\n```\nx = 7\n```",
        "```python\nX\n```\nprints\n```text\n7\n```\nin\n```sh\npython x.py\n```",
        "```python\nY\n```\nBetter:\n```python\nX\n```",
        "<think>\n```python\nhalf of it\n</think>\n```python\nX\n```",
        "```python\nX```",
        "X",
    ],
)
def test_the_program_of_a_completion(completion):
    program = "def g(n):\n    return n"
    indented = "def g(n):\n       return n" if completion.startswith("1.") else program
    text = completion.replace("X", indented).replace("Y", "def g(n): return 0")
    assert fences.extract_program(text) == program


def test_fences_inside_of_a_program():
    program = (
        'def g(n):\n    """Use it:\n\n    ```\n    g(3)\n    ```\n    """\n    return n  # ``` too'
    )
    assert fences.extract_program(f"```python\n{program}\n```\n```\n3\n```") == program
    assert fences.extract_program("```python\nx = '''\n```\nafter") == "x = '''"


def test_spaces_inside_of_a_program_stay():
    program = 'print("""a\n   \nb""")'
    assert fences.extract_program(f"```python\n{program}\n```") == program


def test_the_program_is_the_block_that_defines_what_is_tested():
    text = "```python\ndef g(n): return n\n```\nUsage:\n```python\nprint(g(3))\n```"
    assert fences.extract_program(text, ("g",)) == "def g(n): return n"
    assert fences.extract_program(text) == "print(g(3))"


@pytest.mark.parametrize(
    "completion", ["", "```python\nx = 1", "<think>\n```python\nx = 1\n```", "```cpp\nint x;\n```"]
)
def test_completions_without_a_program(completion):
    assert fences.extract_program(completion) is None
