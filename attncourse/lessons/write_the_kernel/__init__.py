"""What only book/write_the_kernel.ipynb uses: six short Triton kernels, copies of them that are broken, and its figures.

The kernels lead from a vector sum to FlashAttention's forward pass, Dao et al. 2022, https://arxiv.org/abs/2205.14135. They
are in `kernel.py`, which needs Triton; the broken copies in `museum.py`. The kernels that the rest of the package uses are
those of its rooms.
"""
