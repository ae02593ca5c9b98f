"""An app as small as one can be; importable in tests as `core.toy`."""
