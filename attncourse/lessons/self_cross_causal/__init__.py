"""What only book/self_cross_causal.ipynb uses: its figures, the two decoders of which one cheats, and a small translation."""
