"""Wrong and right solutions of each exercise: what the checks must tell apart."""
