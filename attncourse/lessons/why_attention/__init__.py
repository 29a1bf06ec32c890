"""What only book/why_attention.ipynb uses: its networks, its measures and its figures."""
