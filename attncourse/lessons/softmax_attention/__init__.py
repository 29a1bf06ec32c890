"""What only book/softmax_attention.ipynb uses: its figures, the sentences that read themselves, its recorded studies."""
