"""What only book/block_sparse.ipynb uses: its figures."""
