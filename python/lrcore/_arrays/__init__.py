"""Support for arrays from NumPy, CuPy, PyTorch and other libraries: matching state arrays, and CUDA streams."""
