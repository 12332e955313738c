"""A wrong argument raises ValueError that names the kernel and the argument."""

import numpy as np
import pytest

from cython_kernels import _kernels

from .cases import CASES
from .test_kernels import KERNELS, call, generator

MIDDLE = {name: CASES[name].shapes[2] for name in KERNELS}


def arguments_of(name: str) -> dict:
    return CASES[name].make(generator(name, MIDDLE[name]), *MIDDLE[name])


def arrays_of(name: str) -> list[tuple[str, str]]:
    return [
        (name, k) for k, v in arguments_of(name).items() if isinstance(v, np.ndarray)
    ]


ARRAYS = [pair for name in KERNELS for pair in arrays_of(name)]


def refuse(name: str, key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: .*{message}"):
        call(name, arguments_of(name) | {key: value})


@pytest.mark.parametrize(("name", "key"), ARRAYS)
def test_wrong_dtypes_are_refused(name: str, key: str) -> None:
    good = arguments_of(name)[key]
    refuse(name, key, good.astype(np.float64), f"{key} holds 8-byte 'd'")
    other = np.float32 if good.dtype == np.int32 else np.int32
    refuse(name, key, np.zeros(good.shape, other), f"{key} holds")


@pytest.mark.parametrize(("name", "key"), ARRAYS)
def test_wrong_shapes_are_refused(name: str, key: str) -> None:
    good = arguments_of(name)[key]
    longer = np.zeros((*good.shape[:-1], good.shape[-1] + 1), good.dtype)
    if (name, key) != ("rope", "x"):  # heads may be fewer than fit a row
        refuse(name, key, longer, r"\(.*\)")
    flat = np.zeros(good.size + 1, good.dtype)
    refuse(name, key, flat, r"\(.*\)")


@pytest.mark.parametrize(("name", "key"), ARRAYS)
def test_what_is_no_array_is_refused(name: str, key: str) -> None:
    for value in ([1.0, 2.0], "text", 3):
        refuse(name, key, value, f"{key} is a")


@pytest.mark.parametrize(
    ("name", "key"), [p for p in ARRAYS if p[1] not in CASES[p[0]].views]
)
def test_strided_arrays_are_refused_where_layout_matters(name: str, key: str) -> None:
    good = arguments_of(name)[key]
    strided = np.zeros((*good.shape[:-1], 2 * good.shape[-1]), good.dtype)[..., ::2]
    if good.shape[-1] > 1:
        refuse(name, key, strided, f"{key}")


@pytest.mark.parametrize(
    ("name", "key"), [p for p in ARRAYS if p[1] in CASES[p[0]].written]
)
def test_read_only_outputs_are_refused(name: str, key: str) -> None:
    good = arguments_of(name)[key]
    good.flags.writeable = False
    refuse(name, key, good, f"{key} cannot be used")


@pytest.mark.parametrize(
    ("name", "key"), [p for p in ARRAYS if p[1] in CASES[p[0]].written]
)
def test_overlapping_outputs_are_refused(name: str, key: str) -> None:
    """An output that is another argument, or shifted over it, unless it may be that one."""
    case = CASES[name]
    good = arguments_of(name)
    for other, value in good.items():
        if (
            other == key
            or not isinstance(value, np.ndarray)
            or value.dtype != np.float32
        ):
            continue
        if value.size < good[key].size or good[key].size == 0:
            continue
        if value.size == good[key].size and (key, other) not in case.aliases:
            with pytest.raises(ValueError, match=rf"^{name}: .*overlaps"):
                call(name, good | {key: value.reshape(good[key].shape)})
        memory = np.zeros(value.size + good[key].size, np.float32)
        shifted = memory[1 : 1 + good[key].size].reshape(good[key].shape)
        with pytest.raises(ValueError, match=rf"^{name}: .*overlaps"):
            call(
                name,
                good | {key: shifted, other: memory[: value.size].reshape(value.shape)},
            )


@pytest.mark.parametrize("name", KERNELS)
def test_misaligned_memory_and_parts_below_one_are_refused(name: str) -> None:
    good = arguments_of(name)
    with pytest.raises(ValueError, match=rf"^{name}: parts is 0"):
        call(name, good, parts=0)
    key = CASES[name].written[0]
    raw = np.zeros(good[key].nbytes + 1, np.uint8)[1:].view(np.float32)
    refuse(
        name, key, raw.reshape(good[key].shape), f"{key} is not aligned|cannot be used"
    )


def test_gemm_names_the_shapes_that_do_not_fit() -> None:
    x = np.zeros((64, 32), np.float32)
    with pytest.raises(ValueError, match=r"^gemm: a is \(64, 32\) but b is \(16, 8\)$"):
        _kernels.gemm(x, x, np.zeros((16, 8), np.float32))


@pytest.mark.parametrize("bad", [-2, 7])
def test_tokens_and_targets_out_of_range_are_refused(bad: int) -> None:
    logits = np.zeros((3, 7), np.float32)
    targets = np.array([0, bad, 1], np.int32)
    with pytest.raises(ValueError, match=rf"targets holds {bad}, not in \[-1, 7\)"):
        _kernels.cross_entropy(np.zeros(3, np.float32), None, logits, targets, 1.0)
    tokens = targets[None, :]
    with pytest.raises(ValueError, match=rf"tokens holds {bad}, not in \[0, 7\)"):
        _kernels.embedding_forward(
            np.zeros((3, 3), np.float32), tokens, logits.T.copy()
        )


def test_small_or_misaligned_workspace_is_refused() -> None:
    x = np.zeros((4, 4), np.float32)
    c = np.zeros((4, 4), np.float32)
    block = np.zeros(4096 * 16, np.uint8)
    start = -block.ctypes.data % 64
    with pytest.raises(ValueError, match="work has 8 bytes"):
        _kernels.gemm(c, x, x, work=block[start : start + 8])
    with pytest.raises(ValueError, match="aligned to 64"):
        _kernels.gemm(c, x, x, work=block[start + 4 :])


def test_heads_that_do_not_divide_are_refused() -> None:
    lse, out = np.zeros((1, 3, 4), np.float32), np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match="3 heads are not a multiple of 2 key heads"):
        _kernels.attention_forward(out, lse, np.zeros((4, 14), np.float32), 1.0)
    with pytest.raises(ValueError, match=r"qkv is \(4, 13\)"):
        _kernels.attention_forward(out, lse, np.zeros((4, 13), np.float32), 1.0)
