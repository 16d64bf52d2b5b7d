"""Files and functions stay small, say what they are for, and have names that mean something (style.md)."""

import ast

from tests.house.tree import PRODUCT, functions, parsed, python_files, relative

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
USUAL_FUNCTION_LINES = 30
USUAL_SHARE = 0.9
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "misc"}


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_no_file_is_longer_than_300_lines() -> None:
    long = {
        str(relative(path)): count for path in python_files() if (count := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert not long


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{relative(path)}:{function.lineno} {function.name}: {length(function)} lines"
        for path in python_files()
        for function in functions(parsed(path))
        if length(function) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_nine_of_ten_functions_have_at_most_30_lines() -> None:
    lengths = [length(function) for path in python_files(*PRODUCT) for function in functions(parsed(path))]
    share = sum(lines <= USUAL_FUNCTION_LINES for lines in lengths) / len(lengths)
    assert share >= USUAL_SHARE, f"only {share:.0%} of {len(lengths)} functions"


def test_every_module_says_what_question_it_answers() -> None:
    silent = [str(relative(path)) for path in python_files() if parsed(path).body and not ast.get_docstring(parsed(path))]
    assert not silent


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [str(relative(path)) for path in python_files() if EMPTY_NAMES & {path.stem, *relative(path).parent.parts}]


def test_no_test_sleeps() -> None:
    """A test waits for a condition, in a loop that looks again; any other pause says on its line what it is not waiting for."""
    sleeping = []
    for path in python_files("tests"):
        lines = path.read_text().splitlines()
        looping = {id(call) for loop in ast.walk(parsed(path)) if isinstance(loop, ast.While) for call in ast.walk(loop)}
        for node in ast.walk(parsed(path)):
            if (
                isinstance(node, ast.Call)
                and _sleeps(node)
                and id(node) not in looping
                and "# not waited for" not in lines[node.lineno - 1]
            ):
                sleeping.append(f"{relative(path)}:{node.lineno}")
    assert not sleeping, "\n".join(sleeping)


def _sleeps(call: ast.Call) -> bool:
    """time.sleep or asyncio.sleep of more than nothing: sleep(0) only lets others run."""
    target = call.func
    if not (isinstance(target, ast.Attribute) and target.attr == "sleep" and isinstance(target.value, ast.Name)):
        return False
    nothing = bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    return target.value.id in {"time", "asyncio"} and not nothing
