"""What only book/grouped_query.ipynb uses: its figures, its models on text, their conversion to fewer key/value heads."""
