"""What only book/block_sparse.ipynb uses: its pictures, its two tasks, and their recorded study."""
