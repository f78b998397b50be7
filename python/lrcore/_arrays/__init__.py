"""Support for arrays of NumPy, CuPy, PyTorch and other libraries: matching state arrays, and CUDA streams."""
