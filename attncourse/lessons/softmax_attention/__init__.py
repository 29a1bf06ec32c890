"""What only book/softmax_attention.ipynb uses: its figures."""
