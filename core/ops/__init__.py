"""The op table: one record an operation, its forward and its gradient side by side."""
