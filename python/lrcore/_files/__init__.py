"""The format of the files, and how one is replaced as a whole."""
