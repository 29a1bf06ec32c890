"""What only book/latent.ipynb uses: small designs, a trained decoder's conversion, recorded studies, and figures."""
