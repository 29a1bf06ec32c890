"""What only book/self_cross_causal.ipynb uses: its figures."""
