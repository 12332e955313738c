"""C kernels, the pipeline runtime and the timeline evaluator, behind thin Cython
wrappers.

This package knows nothing of ``workbench``: it takes arrays and flat tables, checks
them, releases the GIL and calls C. NumPy twins of all kernels are in
``cython_kernels.reference``.
"""
