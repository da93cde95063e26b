"""A pretended CUDA device, on a machine that has none: which operation would fail there, wait for it, or take which kernel.

A tensor on it is a wrapper around a CPU tensor. torch's C++ sees it on "meta", so that torch's own formulas of gradients run; Python sees
it on cuda. What C++ would decide by the device is written down here: the operations that CUDA's autocast casts, the rule that all tensors
of an operation lie on one device, the operations for whose result the CPU waits, and the kernel that `scaled_dot_product_attention` takes
on Hopper (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp). With `sizes_only`, floats have no data, so true sizes need no memory.

It has no limits of kernels, no streams, no allocator and no speed. It knows torch 2.13; `unknown_torch` says so of other versions.
A process that has called `install` stays so: use one of its own.
"""
