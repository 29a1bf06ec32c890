"""What only book/query_key_value.ipynb uses: its figures."""
