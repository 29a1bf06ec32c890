"""What only book/multi_head.ipynb uses: its figures."""
