"""From a vector sum to FlashAttention's forward pass in six short Triton kernels, and copies of them that are broken.

Dao et al. 2022, FlashAttention, https://arxiv.org/abs/2205.14135. The steps are in `kernel.py`, which needs Triton; the
broken copies in `museum.py`. The kernels that the rest of the package uses are those of its rooms.
"""
