"""File formats, and the atomic replacement of files."""
