"""Modules, layers and functional forms with PyTorch's names, shapes and defaults."""
