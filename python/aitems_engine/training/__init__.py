"""Training loops: the only part of the package that imports torch. Results are written as bundles and tensors."""
