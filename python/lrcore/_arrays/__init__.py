"""Arrays of NumPy, CuPy, torch and others: state like them, and their streams."""
