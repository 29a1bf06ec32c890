"""What only book/hard_attention.ipynb uses: the task of the needle with its readers, and its figures."""
