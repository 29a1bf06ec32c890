"""What only book/latent.ipynb uses: a trained decoder's conversion to latent attention, and its figures."""
