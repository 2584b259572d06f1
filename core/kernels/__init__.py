"""The kernel table: one name, one function a device; the reference written in plain array code is the oracle."""
