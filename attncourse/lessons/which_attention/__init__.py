"""What only book/which_attention.ipynb uses: a layer of each family, a reader of evidence, explanations, figures."""
