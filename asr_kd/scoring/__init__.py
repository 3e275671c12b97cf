"""Words in, numbers out: error counts, and how far they can be trusted. Knows neither audio nor models."""
