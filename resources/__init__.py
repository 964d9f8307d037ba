"""The nouns: every kind, the registry, the store and its logs, errors, the API client."""
