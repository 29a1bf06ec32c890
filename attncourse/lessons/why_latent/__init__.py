"""What only book/why_latent.ipynb uses: its schematic and its figures."""
