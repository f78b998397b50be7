"""Arrays of NumPy, CuPy, PyTorch and other libraries: allocating states like them, and finding their streams."""
