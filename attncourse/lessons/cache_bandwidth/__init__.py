"""What only book/cache_bandwidth.ipynb uses: decoding as records, its overhead, a chip's use, a whole model's bounds, figures."""
