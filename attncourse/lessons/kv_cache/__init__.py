"""What only book/kv_cache.ipynb uses: its figures."""
