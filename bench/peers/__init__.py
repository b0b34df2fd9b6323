"""The same no-op job on Ganger and on its peers, each as its users would set it up."""
