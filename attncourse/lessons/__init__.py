"""What one chapter alone uses, a folder a chapter, under the name of its page: figures, models and tasks, kernels."""
