"""What only book/sparse_patterns.ipynb uses: its figures."""
