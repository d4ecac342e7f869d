"""StreamForest."""
