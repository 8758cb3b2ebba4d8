"""Build time: from a C source to a stencil file. Nothing here is needed to run code."""
