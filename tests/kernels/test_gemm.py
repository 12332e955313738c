"""Strides, leading dimensions and threads of gemm; monotone workspaces."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_kernels import _kernels

RNG = np.random.default_rng(11)
LAYOUTS = {
    "rows": lambda m, n: RNG.standard_normal((m, n)).astype(np.float32),
    "columns": lambda m, n: RNG.standard_normal((n, m)).astype(np.float32).T,
    "row slice": lambda m, n: RNG.standard_normal((m, n + 5)).astype(np.float32)[
        :, 2 : n + 2
    ],
    "both strides": lambda m, n: RNG.standard_normal((3 * m, 2 * n)).astype("f4")[
        ::3, ::2
    ],
    "reversed": lambda m, n: RNG.standard_normal((m, n)).astype(np.float32)[::-1, ::-1],
    "broadcast": lambda m, n: np.broadcast_to(
        np.float32(RNG.standard_normal(n)), (m, n)
    ),
}


@pytest.mark.parametrize("a_layout", LAYOUTS)
@pytest.mark.parametrize("b_layout", LAYOUTS)
def test_layout_changes_no_bit(a_layout: str, b_layout: str, isa: str) -> None:
    for m, n, k in ((13, 35, 29), (48, 64, 400)):
        a, b = LAYOUTS[a_layout](m, k), LAYOUTS[b_layout](k, n)
        plain, found = np.empty((m, n), np.float32), np.empty((m, n), np.float32)
        _kernels.gemm(plain, np.ascontiguousarray(a), np.ascontiguousarray(b))
        _kernels.gemm(found, a, b)
        assert found.tobytes() == plain.tobytes()


def test_an_output_slice_leaves_its_neighbours_alone(isa: str) -> None:
    a, b = LAYOUTS["rows"](17, 9), LAYOUTS["rows"](9, 21)
    whole = np.full((17, 40), 3.5, np.float32)
    alone = np.empty((17, 21), np.float32)
    _kernels.gemm(whole[:, 8:29], a, b)
    _kernels.gemm(alone, a, b)
    assert np.array_equal(whole[:, 8:29], alone)
    assert (whole[:, :8] == 3.5).all() and (whole[:, 29:] == 3.5).all()


def test_a_row_of_the_product_does_not_depend_on_the_other_rows(isa: str) -> None:
    """What makes a microbatch's numbers independent of how rows are grouped into tiles."""
    a, b = LAYOUTS["rows"](37, 350), LAYOUTS["rows"](350, 19)
    whole, row = np.empty((37, 19), np.float32), np.empty((1, 19), np.float32)
    _kernels.gemm(whole, a, b)
    for i in (0, 5, 36):
        _kernels.gemm(row, a[i : i + 1], b)
        assert row.tobytes() == whole[i].tobytes()


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 80), n=st.integers(1, 80), k=st.integers(0, 700))
def test_every_isa_is_close_to_numpy(m: int, n: int, k: int) -> None:
    a, b = LAYOUTS["rows"](m, k), LAYOUTS["rows"](k, n)
    exact = a.astype(np.float64) @ b
    bound = (k + 4) * 2.0**-24 * (np.abs(a).astype(np.float64) @ np.abs(b))
    before = _kernels.isa()
    try:
        for isa in _kernels.available_isas():
            _kernels.select_isa(isa)
            c = np.full((m, n), np.nan, np.float32)
            _kernels.gemm(c, a, b)
            assert (np.abs(c - exact) <= bound).all(), isa
    finally:
        _kernels.select_isa(before)


def test_threads_may_share_inputs(isa: str) -> None:
    a, b = LAYOUTS["rows"](65, 300), LAYOUTS["rows"](300, 90)
    wanted = np.empty((65, 90), np.float32)
    _kernels.gemm(wanted, a, b)

    def product(_: int) -> bytes:
        c = np.full((65, 90), np.nan, np.float32)
        _kernels.gemm(c, a, b, parts=2)
        return c.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(product, range(32))) == {wanted.tobytes()}


def test_workspace_grows_with_the_sizes_and_stays_bounded(isa: str) -> None:
    sizes = [1, 2, 63, 64, 200, 1000, 5000]
    for f in (
        lambda n: _kernels.gemm_workspace(n, 64, 64),
        lambda n: _kernels.gemm_workspace(64, n, 64),
        lambda n: _kernels.attention_workspace(n, 1, 64),
        lambda n: _kernels.attention_workspace(64, n, 64),
        lambda n: _kernels.attention_workspace(64, 0, n),
    ):
        found = [f(n) for n in sizes]
        assert found == sorted(found) and min(found) > 0
    assert _kernels.gemm_workspace(10**6, 10**6, 10**6) < 16 * 2**20


def test_an_unknown_instruction_set_names_those_that_run() -> None:
    with pytest.raises(
        ValueError, match=r"'sse9' does not run here; these do: .*generic"
    ):
        _kernels.select_isa("sse9")
    assert _kernels.isa() in _kernels.available_isas()
