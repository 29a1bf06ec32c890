"""What only book/linear_attention.ipynb uses: a language model with a memory of fixed size, and its figures."""
