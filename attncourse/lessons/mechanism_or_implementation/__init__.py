"""What only book/mechanism_or_implementation.ipynb uses: the test of an optimization, a cache of tiles, a day of requests, figures."""
