"""Fast providers of the kernel table on processors: libraries that are optional, and kernels that they run."""
