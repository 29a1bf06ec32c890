"""What only book/write_the_kernel.ipynb uses: long forms of its kernels, copies that are broken, its figures.

The notebook's own kernels lead from adding 1 to FlashAttention's forward pass, Dao et al. 2022,
https://arxiv.org/abs/2205.14135. Their long forms, with checks and masks, are in `kernel.py`, which needs Triton; the
broken copies in `museum.py`; what compiles a notebook's kernels in `written.py`, and what times them in `race.py`. The
kernels that the rest of the package uses are those of its rooms.
"""
