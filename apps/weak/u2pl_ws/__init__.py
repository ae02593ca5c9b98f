"""Weak supervision: from image tags to masks."""
