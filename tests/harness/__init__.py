"""What the tests of several apps share; `harness` is importable, its scripts run by path."""
