"""Fast providers of the kernel table on NVIDIA GPUs: our own kernels, and libraries that are optional."""
