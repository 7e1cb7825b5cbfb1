"""Compiled and Triton kernels: arrays in, arrays out. They know no SAE and no study."""
