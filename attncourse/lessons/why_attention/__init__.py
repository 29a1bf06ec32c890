"""What only book/why_attention.ipynb uses: how strongly a source token reaches an output."""
