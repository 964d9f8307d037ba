"""The REST API: Kubernetes-shaped verbs, lists, watches and discovery over the store, for clients that exist."""
