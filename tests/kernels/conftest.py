"""Every test with the `isa` fixture runs once per table of this build; a table that the machine
cannot run is a visible skip. CASES, the arguments of each kernel, are in cases.py."""

from collections.abc import Iterator

import pytest

from cython_kernels import _kernels


@pytest.fixture(params=_kernels.built_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    if name not in _kernels.available_isas():
        pytest.skip(f"this machine does not run {name}")
    before = _kernels.isa()
    _kernels.select_isa(name)
    yield name
    _kernels.select_isa(before)
