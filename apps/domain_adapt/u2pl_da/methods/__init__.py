"""The methods, one per file, named after their files."""
