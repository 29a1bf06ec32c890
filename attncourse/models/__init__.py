"""The small models that chapters train, and their tasks."""
