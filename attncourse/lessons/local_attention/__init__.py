"""What only book/local_attention.ipynb uses: its figures."""
