"""What the tests of several apps share; `harness` is importable in tests, its scripts run by path."""
