"""The formats of files, and the atomic replacement of files."""
