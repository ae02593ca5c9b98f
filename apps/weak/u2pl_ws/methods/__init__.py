"""One file per method; a file here is a method, by its file name."""
