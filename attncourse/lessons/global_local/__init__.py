"""What only book/global_local.ipynb uses: an encoder for long documents with its tasks, and its figures."""
