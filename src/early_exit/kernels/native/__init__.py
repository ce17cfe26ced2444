"""The kernels for CPUs, in C++, compiled when they are first used and called through ctypes."""
