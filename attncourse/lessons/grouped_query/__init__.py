"""What only book/grouped_query.ipynb uses: a trained model's conversion to fewer key/value heads."""
