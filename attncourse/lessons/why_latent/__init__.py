"""What only book/why_latent.ipynb uses: its figures."""
