"""Properties of every kernel of the table, generated from the table's own list of names."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from cython_kernels import _kernels, reference

from .cases import CASES, OTHERS, Case

STUB = Path(__file__).parents[2] / "cython_kernels" / "_kernels.pyi"
KERNELS = [name for name in _kernels.kernel_names() if name not in OTHERS]


def generator(name: str, shape: tuple) -> np.random.Generator:
    return np.random.default_rng([ord(c) for c in name] + [int(n) for n in shape])


def copied(arguments: dict) -> dict:
    return {
        k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()
    }


def outputs(case: Case, arguments: dict) -> dict[str, np.ndarray]:
    return {k: arguments[k] for k in case.written if arguments[k] is not None}


def call(name: str, arguments: dict, **keywords: object) -> None:
    getattr(_kernels, name)(*arguments.values(), **keywords)


def check(name: str, case: Case, arguments: dict, **keywords: object) -> None:
    """Run the kernel and its twin on the same arguments and compare within the bound."""
    given, ours = copied(arguments), copied(arguments)
    exact = {
        k: v.astype(np.float64) if k in case.written and v is not None else v
        for k, v in copied(arguments).items()
    }
    getattr(reference, name)(*exact.values())
    call(name, ours, **keywords)
    wanted = outputs(case, exact)
    bounds = case.bound(given, wanted)
    for key, value in outputs(case, ours).items():
        error = np.abs(value.astype(np.float64) - wanted[key])
        worst = np.max(error - bounds[key], initial=-1.0)
        assert worst <= 0, f"{name}: {key} {value.shape} errs by {worst} over its bound"
    for key, value in given.items():
        if isinstance(value, np.ndarray) and key not in case.written:
            assert np.array_equal(ours[key], value), f"{name}: input {key} changed"


def test_every_kernel_has_a_wrapper_a_twin_a_type_and_a_case() -> None:
    stub = ast.parse(STUB.read_text())
    typed = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert set(CASES) | OTHERS == set(_kernels.kernel_names())
    for name in _kernels.kernel_names():
        twin = list(inspect.signature(getattr(reference, name)).parameters)
        wrapper = inspect.signature(getattr(_kernels, name)).parameters
        positional = [p.name for p in wrapper.values() if p.kind != p.KEYWORD_ONLY]
        assert positional == twin, name
        assert [a.arg for a in typed[name].args.args] == twin, name
        if name in CASES:
            made = CASES[name].make(generator(name, ()), *CASES[name].shapes[0])
            assert list(made) == twin, name


@pytest.mark.parametrize("name", KERNELS)
def test_agrees_with_its_float64_twin_on_odd_shapes(name: str, isa: str) -> None:
    case = CASES[name]
    for shape in case.shapes:
        check(name, case, case.make(generator(name, shape), *shape))


@pytest.mark.parametrize("name", [n for n in KERNELS if CASES[n].optional])
def test_optional_arguments_may_be_absent(name: str, isa: str) -> None:
    case = CASES[name]
    for absent in (*((key,) for key in case.optional), case.optional):
        for shape in case.shapes:
            arguments = case.make(generator(name, shape), *shape)
            check(name, case, arguments | dict.fromkeys(absent))


@pytest.mark.parametrize("name", KERNELS)
def test_no_bit_depends_on_the_number_of_parts(name: str, isa: str) -> None:
    case = CASES[name]
    for shape in case.shapes:
        alone = case.make(generator(name, shape), *shape)
        others = [copied(alone) for _ in range(4)]
        call(name, alone)
        for parts, arguments in zip((2, 3, 4, 7), others, strict=True):
            call(name, arguments, parts=parts)
            for key, value in outputs(case, arguments).items():
                same = value.tobytes() == alone[key].tobytes()
                assert same, f"{name}{shape}: {key} differs with {parts} parts"


@pytest.mark.parametrize("name", [n for n in KERNELS if CASES[n].aliases])
def test_outputs_may_be_the_inputs_that_are_named(name: str, isa: str) -> None:
    case = CASES[name]
    for output, source in case.aliases:
        for shape in case.shapes:
            apart = case.make(generator(name, shape), *shape)
            shared = copied(apart)
            shared[output] = shared[source]
            call(name, apart)
            call(name, shared)
            assert shared[output].tobytes() == apart[output].tobytes(), (output, shape)


@pytest.mark.parametrize("name", KERNELS)
def test_writes_stay_inside_the_outputs(name: str, isa: str) -> None:
    case = CASES[name]
    for shape in case.shapes:
        arguments = case.make(generator(name, shape), *shape)
        fenced = {}
        for key, value in outputs(case, arguments).items():
            fence = np.full(value.size + 64, 7.25, dtype=np.float32)
            fence[32 : 32 + value.size] = value.ravel()
            arguments[key] = fence[32 : 32 + value.size].reshape(value.shape)
            fenced[key] = fence
        call(name, arguments, parts=2)
        for key, fence in fenced.items():
            outside = np.concatenate([fence[:32], fence[-32:]])
            assert (outside == 7.25).all(), f"{name}{shape}: wrote around {key}"


def workspace_sizes(name: str, arguments: dict) -> tuple[int, ...]:
    if name == "gemm":
        (m, k), n = arguments["a"].shape, arguments["b"].shape[1]
        return m, n, k
    _, heads, context = arguments["lse"].shape
    return context, 0, arguments["out"].shape[1] // heads


@pytest.mark.parametrize("name", ["gemm", "attention_forward", "attention_backward"])
def test_workspace_may_hold_anything_and_is_not_overrun(name: str, isa: str) -> None:
    case = CASES[name]
    size_of = getattr(_kernels, f"{name.split('_')[0]}_workspace")
    for shape in case.shapes:
        arguments = case.make(generator(name, shape), *shape)
        size = 2 * size_of(*workspace_sizes(name, arguments))
        block = np.full(size + 256, 0xFF, dtype=np.uint8)  # every float of it a NaN
        first = -block.ctypes.data % 64
        work = block[first : first + size]
        check(name, case, arguments, work=work, parts=2)
        assert (block[:first] == 0xFF).all() and (block[first + size :] == 0xFF).all()


ELEMENTWISE = ["relu_forward", "gelu_forward", "exp", "sigmoid", "adamw", "sgd"]
ELEMENTWISE += ["relu_backward", "gelu_backward", "add"]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elements_result_does_not_depend_on_its_place(name: str, isa: str) -> None:
    """A stage may update its parameters in one call or one by one: the same bits."""
    case = CASES[name]
    whole = case.make(generator(name, (613,)), 613)
    pieces = copied(whole)
    call(name, whole)
    for begin, end in ((0, 1), (1, 38), (38, 613)):
        call(
            name,
            {
                key: value[begin:end] if isinstance(value, np.ndarray) else value
                for key, value in pieces.items()
            },
        )
    for key in case.written:
        assert pieces[key].tobytes() == whole[key].tobytes(), key
